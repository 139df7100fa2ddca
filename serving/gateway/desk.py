"""DeskClient: a gateway's way to the controller, for what clients ask of the whole engine. Rare calls, each on a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import orjson

from serving.errors import Code, DeadlineExceeded, ServingError, Unavailable, from_code

MAX_LINE_BYTES = 64 << 20
"""Of one answer."""
MAX_ASKED = 32
"""Questions of this gateway that have no answer yet; one more is refused."""
AWAY = "the controller is not there"
asker: ContextVar[str] = ContextVar("asker", default="")
"""Who has sent the request that is being worked on, as far as access has found out; "" while it is off."""


class DeskClient:
    """Belongs to the gateway's loop. path: the controller's socket (`run_dir/desk.sock`)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asked = 0

    async def ask(self, name: str, timeout_s: float = 60.0, **arguments: Any) -> dict[str, Any]:
        """Return the controller's answer. `arguments` are JSON values; who asks goes along as `who`, where that is known.

        Raises the ServingError that the controller answers with, Unavailable where it is away or leaves, DeadlineExceeded where it
        takes longer; it goes on with what it was asked for then.
        """
        if self._asked >= MAX_ASKED:
            raise Unavailable("this gateway waits for the controller with too many requests", retry_after_s=1.0)
        self._asked += 1
        named = {"who": who} if (who := asker.get()) else {}
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._exchange({"id": 1, "ask": name, **named, **arguments})
        except TimeoutError:
            raise DeadlineExceeded(f"the controller did not answer within {timeout_s:g} s") from None
        except (OSError, ValueError, EOFError):
            raise Unavailable(AWAY, retry_after_s=1.0) from None
        finally:
            self._asked -= 1
        answer: Mapping[str, Any] = orjson.loads(line)
        if "error" in answer:
            raise _error(answer["error"])
        result: dict[str, Any] = answer["ok"]
        return result

    async def _exchange(self, question: dict[str, Any]) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self._path), limit=MAX_LINE_BYTES)
        try:
            writer.write(orjson.dumps(question) + b"\n")
            await writer.drain()
            line = await reader.readline()
        finally:
            writer.close()
        if not line.endswith(b"\n"):
            raise EOFError
        return line


def _error(told: Mapping[str, Any]) -> ServingError:
    code = Code.__members__.get(told["code"], Code.INTERNAL)
    return from_code(int(code), told["message"], told["retry_after_s"])
