"""Desk: where gateways ask the controller for what clients want of it (load a model, register memory), on `run_dir/desk.sock` (0600).

JSON lines: `{"id": 7, "ask": "name", ...arguments}` → `{"id": 7, "ok": {...}}` or
`{"id": 7, "error": {"code": "NOT_FOUND", "message": "...", "retry_after_s": 0}}` with the names of `errors.Code`.
Answers come in any order.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from serving.errors import Code, InvalidArgument, QueueFull, ServingError, Unavailable, Unsupported

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 1 << 30
"""Of one question: files of a model come in them."""
WORKERS = 16
MAX_WAITING = 64
"""Questions that are answered or wait for a worker, of all gateways together; one more is refused."""
START_S = 10.0

Handler = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes the arguments, returns the answer; may block. Raises ServingError for the client."""


class Desk:
    """Listens in a thread of its own; handlers run in worker threads."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._workers = ThreadPoolExecutor(WORKERS, "desk")
        self._room = threading.Semaphore(MAX_WAITING)
        self._loop = asyncio.new_event_loop()
        self._ended: asyncio.Event = asyncio.Event()
        self._listening: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="desk", daemon=True)

    def start(self) -> None:
        """Listen. Raises Unavailable where the socket cannot be made."""
        self._thread.start()
        try:
            self._listening.result(START_S)
        except OSError as error:
            raise Unavailable(f"{self._path}: {error.strerror}") from error

    def stop(self) -> None:
        """Close; questions that are being answered get no answer."""
        if self._thread.is_alive():
            try:
                self._loop.call_soon_threadsafe(self._ended.set)
            except RuntimeError:
                pass  # it is ending by itself
            self._thread.join(5.0)
        self._workers.shutdown(wait=False, cancel_futures=True)

    def healthy(self) -> None:
        """Raise Unavailable when the thread has ended."""
        if not self._thread.is_alive():
            raise Unavailable("the desk of the controller has closed")

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        draft = self._path.with_name(f"{self._path.name}.draft")
        draft.unlink(missing_ok=True)
        try:
            server = await asyncio.start_unix_server(self._converse, draft, limit=MAX_LINE_BYTES)
            os.chmod(draft, 0o600)
            # In place of the socket that a controller before us left: nobody finds a path without a listener.
            os.replace(draft, self._path)
        except OSError as error:
            self._listening.set_exception(error)
            return
        self._listening.set_result(None)
        await self._ended.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take questions until the gateway closes; what is under way then runs to its end."""
        asked: set[asyncio.Task[None]] = set()
        try:
            while line := await reader.readline():
                task = asyncio.create_task(self._reply(line, writer))
                asked.add(task)
                task.add_done_callback(asked.discard)
            # a client that has no more to ask still wants its answers
            await asyncio.gather(*asked)
        except (ConnectionError, ValueError):
            log.warning("a gateway left its question unfinished, or it was longer than %d bytes", MAX_LINE_BYTES)
        finally:
            writer.close()

    async def _reply(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        number, answer = await self._answer(line)
        if not writer.is_closing():
            writer.write(orjson.dumps({"id": number, **answer}) + b"\n")
            try:
                await writer.drain()
            except ConnectionError:
                log.info("a gateway left before its answer")

    async def _answer(self, line: bytes) -> tuple[Any, dict[str, Any]]:
        number = None
        try:
            try:
                question = orjson.loads(line)
                number, name = question.pop("id"), question.pop("ask")
            except (ValueError, KeyError, AttributeError, TypeError):
                raise InvalidArgument('a question is {"id": n, "ask": "name", ...}') from None
            handler = self._handlers.get(name)
            if handler is None:
                raise Unsupported(f"the controller knows no '{name}'")
            if not self._room.acquire(blocking=False):
                raise QueueFull("the controller has too much to do", retry_after_s=1.0)
            try:
                return number, {"ok": await self._loop.run_in_executor(self._workers, handler, question)}
            finally:
                self._room.release()
        except ServingError as error:
            return number, _refusal(error.code, error.message, error.retry_after_s)
        except Exception as error:
            # one question's bug is not to cost the others their desk
            log.exception("desk: %s", line[:200])
            return number, _refusal(Code.INTERNAL, f"the controller failed: {type(error).__name__}: {error}", 0.0)


def _refusal(code: Code, message: str, retry_after_s: float) -> dict[str, Any]:
    return {"error": {"code": code.name, "message": message, "retry_after_s": retry_after_s}}
