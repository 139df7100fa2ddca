"""Repository: index, load and unload over REST and gRPC. The controller does it; here are paths and messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from serving.errors import Code, InvalidArgument, ServingError, Unsupported
from serving.gateway.desk import DeskClient
from serving.gateway.errand import rest_errand
from serving.gateway.head import Action
from serving.protocol import repository
from serving.protocol.repository import Load

LOAD_S = 600.0
"""Longest wait for a model to be loaded; it goes on afterwards."""
_LARGE_BYTES = 256 * 1024
"""A body from this size on (files of a model) is read in a thread."""


class Repository:
    """Questions of clients on their way to the desk."""

    def __init__(self, desk: DeskClient) -> None:
        self._desk = desk
        self.grpc: dict[str, Callable[[bytes], Coroutine[Any, Any, bytes]]] = {
            "RepositoryIndex": self._grpc_index,
            "RepositoryModelLoad": self._grpc_load,
            "RepositoryModelUnload": self._grpc_unload,
        }
        """Unary methods of the inference service, by name."""

    def rest(self, parts: list[str]) -> Action | None:
        """Return the action of a path below v2/repository, None where there is nothing. All are POST."""
        match parts:
            case ["index"]:
                return rest_errand(self._rest_index)
            case ["models", *name, "load" | "unload" as verb]:
                run = self._rest_load if verb == "load" else self._rest_unload
                # a slash can come into a name only percent-encoded; the controller says what is wrong with it
                return rest_errand(lambda body: run("/".join(name), body))
            case [_, "index"] | [_, "models", _, "load" | "unload"]:
                return rest_errand(_named)
        return None

    async def _index(self, ready: bool) -> list[dict[str, str]]:
        answer = await self._desk.ask("index")
        return [m for m in answer["models"] if m["state"] == "READY" or not ready]

    async def _load(self, asked: Load) -> None:
        await self._desk.ask("load", LOAD_S, **asked._asdict())

    async def _rest_index(self, body: bytes) -> bytes:
        return repository.rest_index_answer(await self._index(repository.rest_index(body)))

    async def _rest_load(self, model: str, body: bytes) -> bytes:
        asked = (
            repository.rest_load(model, body) if len(body) < _LARGE_BYTES else await asyncio.to_thread(repository.rest_load, model, body)
        )
        try:
            await self._load(asked)
        except ServingError as error:
            # what cannot be loaded is the caller's to mend: 400, where gRPC says INTERNAL
            raise InvalidArgument(error.message) if error.code is Code.INTERNAL else error from None
        return b""

    async def _rest_unload(self, model: str, body: bytes) -> bytes:
        repository.rest_unload(body)
        await self._desk.ask("unload", LOAD_S, model=model)
        return b""

    async def _grpc_index(self, message: bytes) -> bytes:
        return repository.grpc_index_answer(await self._index(repository.grpc_index(message)))

    async def _grpc_load(self, message: bytes) -> bytes:
        large = len(message) >= _LARGE_BYTES
        await self._load(await asyncio.to_thread(repository.grpc_load, message) if large else repository.grpc_load(message))
        return b""

    async def _grpc_unload(self, message: bytes) -> bytes:
        await self._desk.ask("unload", LOAD_S, model=repository.grpc_unload(message))
        return b""


async def _named(_: bytes) -> bytes:
    raise Unsupported(repository.NO_REPOSITORY_NAME)
