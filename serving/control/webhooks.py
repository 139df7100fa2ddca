"""Webhooks: sends events, as they are recorded, to the URLs that the YAML names, and to no other.

The record itself is the queue, so what was not delivered when the engine ended is delivered when it is back; nothing is kept in memory.
One thread for each URL, so that a slow receiver holds up no other. Signed as Standard Webhooks (standardwebhooks.com) has it:

    webhook-id: HASH of the event     webhook-timestamp: seconds     webhook-signature: v1,BASE64(HMAC-SHA256(secret, "ID.TIMESTAMP.BODY"))

An event comes at least once, in the order of the record; its id tells a repetition. A 2xx is a receipt. A refusal (4xx other than 408,
425, 429) is tried three times and then given up, anything else until the event is three days old, each time after twice the pause.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import httpx

from serving.control.event import Filter, Recorded
from serving.errors import ServingError, Unavailable
from serving.plan import Webhook

log = logging.getLogger(__name__)

LOOK_S = 0.5
TIMEOUT_S = 10.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
REFUSALS = 3
GIVE_UP_S = 3 * 86_400.0
BACKLOG = 10_000
"""Events that may wait for one receiver; of more, the oldest are left out, and the log says so."""
_PAGE = 50
_NOT_REFUSED = {408, 425, 429}


class Record(Protocol):
    """What is needed of the store."""

    def events(self, which: Filter) -> list[Recorded]: ...
    def newest_event(self) -> int: ...
    def delivered(self, url: str) -> int | None: ...
    def deliver(self, url: str, number: int) -> None: ...


class Webhooks:
    """Follows what is configured. `configured` is asked twice a second; a URL that is new gets what is recorded from then on."""

    def __init__(self, record: Record, configured: Callable[[], tuple[Webhook, ...]]) -> None:
        self._record = record
        self._configured = configured
        self._stopping = threading.Event()
        self._posts: dict[Webhook, _Post] = {}
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End all threads; what is under way ends within its time-out."""
        self._stopping.set()
        self._thread.join(TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            wanted = self._configured()
            for hook in [h for h in self._posts if h not in wanted]:
                self._posts.pop(hook).stop()
            for hook in wanted:
                if hook not in self._posts:
                    self._posts[hook] = _Post(self._record, hook)
        for post in self._posts.values():
            post.stop()


class _Post:
    """One receiver."""

    def __init__(self, record: Record, hook: Webhook) -> None:
        self._record, self._hook = record, hook
        self._stopping = threading.Event()
        threading.Thread(target=self._run, name=f"webhook {hook.host}", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping.wait(LOOK_S):
            try:
                with httpx.Client(timeout=TIMEOUT_S, trust_env=False, verify=_trust(self._hook)) as client:
                    self._follow(client)
                pause_s = FIRST_PAUSE_S
            except (ServingError, OSError) as error:
                log.warning("webhook %s: %s", self._hook.host, error)
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _follow(self, client: httpx.Client) -> None:
        """Deliver what is recorded, until it is to stop. Raises what the store, the secret and the certificates raise."""
        while not self._stopping.is_set():
            events = self._record.events(Filter(after=self._begin(), limit=_PAGE))
            for event in events:
                wanted = any(f"{event.event.kind}.".startswith(f"{k}.") for k in self._hook.kinds) or not self._hook.kinds
                if wanted and not self._deliver(client, event):
                    return
                self._record.deliver(self._hook.url, event.number)
            if not events:
                self._stopping.wait(LOOK_S)

    def _begin(self) -> int:
        """Return the last event that needs no delivery."""
        newest, had = self._record.newest_event(), self._record.delivered(self._hook.url)
        if had is None or had > newest:
            self._record.deliver(self._hook.url, newest)
            return newest
        if newest - had > BACKLOG:
            log.warning("webhook %s: %d events are left out, more than %d wait", self._hook.host, newest - had - BACKLOG, BACKLOG)
            return newest - BACKLOG
        return had

    def _deliver(self, client: httpx.Client, event: Recorded) -> bool:
        """Return whether the event is done with: delivered or given up. False: it is to stop."""
        pause_s, refused = FIRST_PAUSE_S, 0
        while True:
            problem, refusal, wait_s = _send(client, self._hook, event)
            refused += refusal
            if not problem:
                return True
            late = time.time() - event.at > GIVE_UP_S
            log.warning("webhook %s, event %d: %s", self._hook.host, event.number, problem)
            if refused >= REFUSALS or late:
                log.warning("webhook %s: event %d is given up", self._hook.host, event.number)
                return True
            if self._stopping.wait(min(max(pause_s, wait_s), LONGEST_PAUSE_S)):
                return False
            pause_s *= 2


def _send(client: httpx.Client, hook: Webhook, event: Recorded) -> tuple[str, bool, float]:
    """Return what was wrong ("" where it was taken), whether it is a refusal, and for how long the receiver wants to be left alone."""
    body = json.dumps(event.to_json(), ensure_ascii=False).encode()
    try:
        answer = client.post(hook.url, content=body, headers=signed(_secret(hook), event.hash, int(time.time()), body))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{type(error).__name__}: {error}", False, 0.0
    if answer.is_success:
        return "", False, 0.0
    after = answer.headers.get("retry-after", "")
    return f"answered {answer.status_code}", _refuses(answer.status_code), float(after) if after.isdecimal() else 0.0


def _refuses(status: int) -> bool:
    return 400 <= status < 500 and status not in _NOT_REFUSED


def signed(secret: bytes, name: str, at: int, body: bytes) -> dict[str, str]:
    """Return the headers of a delivery."""
    digest = hmac.new(secret, f"{name}.{at}.".encode() + body, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _secret(hook: Webhook) -> bytes:
    """Return the key; "whsec_..." is base64 of it. Raises Unavailable where there is none: nothing is sent unsigned."""
    if hook.secret_file:
        try:
            text = Path(hook.secret_file).read_text().strip()
        except (OSError, ValueError) as error:
            raise Unavailable(f"the secret in {hook.secret_file} cannot be read: {error}") from error
    else:
        text = os.environ.get(hook.secret_env, "").strip()
    if not text:
        raise Unavailable(f"there is no secret in {hook.secret_file or hook.secret_env}")
    try:
        return base64.b64decode(text.removeprefix("whsec_"), validate=True) if text.startswith("whsec_") else text.encode()
    except ValueError as error:
        raise Unavailable(f"the secret in {hook.secret_file or hook.secret_env} is no base64 behind whsec_") from error


def _trust(hook: Webhook) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=hook.ca_file or None)
