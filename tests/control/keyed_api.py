"""KeyedApi: a control API with access on, and clients that show their keys."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi import FastAPI

from serving.control.keyring import Keyring
from serving.control.runner import Runner


class KeyedApi:
    """`async with` it: the runner runs. Whoever makes one sets these; `keys` are by who asks."""

    runner: Runner
    ring: Keyring
    keys: dict[str, str]
    client: httpx.AsyncClient

    def serve(self, app: FastAPI) -> None:
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8003")

    def make_keys(self, grants: dict[str, str]) -> dict[str, str]:
        """Return a key for each name, with one grant each."""
        return {name: self.ring.create(name, [grant])[0] for name, grant in grants.items()}

    async def send(self, who: str, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask with the key of somebody; "": with none."""
        shown = {"Authorization": f"Bearer {self.keys[who]}"} if who else {}
        return await self.client.request(method, path, headers=shown | more.pop("headers", {}), **more)

    async def __aenter__(self) -> None:
        self.runner.start()
        await self.client.__aenter__()

    async def __aexit__(self, *_: object) -> None:
        await self.client.__aexit__()
        self.runner.stop()
