"""Webhooks, against a receiver of our own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serving.control import webhooks
from serving.control.event import Event
from serving.control.store import SqliteStore
from serving.control.webhooks import Webhooks
from serving.plan import Webhook

SECRET = b"a key of ours"
WAIT_S = 20.0


class Receiver:
    """Answers with the statuses that a test gave, then with 200; `got` is what came."""

    def __init__(self) -> None:
        self.got: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        self.statuses: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.statuses.pop(0) if receiver.statuses else 200
                receiver.got.put(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(status)
                if status == 302:
                    self.send_header("location", receiver.url + "elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def next(self) -> str:
        """Return what the next delivery is about."""
        return str(json.loads(self.got.get(timeout=WAIT_S)[1])["what"])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "LOOK_S", 0.02)
    monkeypatch.setattr(webhooks, "FIRST_PAUSE_S", 0.02)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "state.db")
    yield store
    store.close()


@pytest.fixture
def follow(store: SqliteStore, tmp_path: Path) -> Iterator[Callable[..., Webhooks]]:
    """Return what starts a Webhooks for one URL, which has had everything until now."""
    (tmp_path / "secret").write_text("whsec_" + base64.b64encode(SECRET).decode() + "\n")
    made: list[Webhooks] = []

    def start(url: str, *kinds: str, **words: str) -> Webhooks:
        words = words or {"secret_file": str(tmp_path / "secret")}
        hook = Webhook(url, kinds=kinds, **words)  # type: ignore[arg-type]
        if store.delivered(url) is None:
            store.deliver(url, store.newest_event())
        made.append(Webhooks(store, lambda: (hook,)))
        made[-1].start()
        return made[-1]

    yield start
    for hooks in made:
        hooks.stop()


def tell(store: SqliteStore, *what: str, kind: str = "apply") -> None:
    store.record([Event(kind, w, "mlp") for w in what], webhooks.time.time())


def test_an_event_comes_signed_and_whole(store: SqliteStore, receiver: Receiver, follow: Callable[..., Webhooks]) -> None:
    tell(store, "before it was configured")
    follow(receiver.url)
    tell(store, "ä change")
    headers, body = receiver.got.get(timeout=WAIT_S)
    (recorded,) = store.events(webhooks.Filter(after=1))
    assert json.loads(body) == recorded.to_json()
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = base64.b64encode(hmac.new(SECRET, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{wanted}"
    assert headers["webhook-id"] == recorded.hash


def test_events_come_in_order_again_and_again_until_they_are_taken(
    store: SqliteStore, receiver: Receiver, follow: Callable[..., Webhooks]
) -> None:
    receiver.statuses = [503, 500, 429, 302]
    follow(receiver.url)
    tell(store, "one", "two")
    assert [receiver.next() for _ in range(6)] == ["one"] * 5 + ["two"]


def test_what_is_refused_three_times_is_given_up_and_the_next_comes(
    store: SqliteStore, receiver: Receiver, follow: Callable[..., Webhooks]
) -> None:
    receiver.statuses = [400, 503, 404, 410]
    follow(receiver.url)
    tell(store, "one", "two")
    assert [receiver.next() for _ in range(5)] == ["one"] * 4 + ["two"]


def test_only_the_kinds_that_were_asked_for(store: SqliteStore, receiver: Receiver, follow: Callable[..., Webhooks]) -> None:
    follow(receiver.url, "version", "rollback")
    tell(store, "no", kind="apply")
    tell(store, "a", kind="version.failed")
    tell(store, "no", kind="versions")
    tell(store, "b", kind="rollback")
    assert [receiver.next(), receiver.next()] == ["a", "b"]


def test_what_was_recorded_while_nobody_sent_comes_after_a_restart_and_nothing_twice(
    store: SqliteStore, receiver: Receiver, follow: Callable[..., Webhooks]
) -> None:
    first = follow(receiver.url)
    tell(store, "one")
    assert receiver.next() == "one"
    _until(lambda: store.delivered(receiver.url) == 1)
    first.stop()
    tell(store, "two", "three")
    follow(receiver.url)
    assert [receiver.next(), receiver.next()] == ["two", "three"]


def test_nothing_is_sent_without_a_secret(
    store: SqliteStore, receiver: Receiver, follow: Callable[..., Webhooks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOOK_SECRET", raising=False)
    follow(receiver.url, secret_env="HOOK_SECRET")
    tell(store, "one")
    with pytest.raises(queue.Empty):
        receiver.got.get(timeout=0.2)
    monkeypatch.setenv("HOOK_SECRET", "now it is there")
    assert receiver.next() == "one"


def test_a_receiver_that_is_away_for_too_long_gets_the_newest(
    store: SqliteStore, receiver: Receiver, follow: Callable[..., Webhooks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "BACKLOG", 2)
    store.deliver(receiver.url, 0)
    tell(store, "one", "two", "three", "four")
    follow(receiver.url)
    assert [receiver.next(), receiver.next()] == ["three", "four"]


def test_a_receiver_that_does_not_answer_holds_up_no_other(store: SqliteStore, receiver: Receiver, follow: Callable[..., Webhooks]) -> None:
    follow("http://127.0.0.1:1/hook")
    follow(receiver.url)
    tell(store, "one")
    assert receiver.next() == "one"


def _until(condition: Callable[[], bool]) -> None:
    end = webhooks.time.monotonic() + WAIT_S
    while not condition():
        assert webhooks.time.monotonic() < end
        threading.Event().wait(0.01)
