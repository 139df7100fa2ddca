"""RestTarget: a server over REST, asked with httpx."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import quote

import httpx

from serving.bench.target import ModelInfo, ServerAddress, ServerInfo, index_names, model_info, unknown_asker, unknown_model
from serving.errors import InvalidArgument, NotFound, ServingError, Unavailable

ASK_TIMEOUT_S = 10.0
"""For questions about the server and its models."""
INFER_TIMEOUT_S = 60.0
"""For a first prediction, which may have to load or compile something."""


def model_path(prefix: str, model: str, version: str) -> str:
    """Return the path of a model; `/` in its name stays, as Triton's clients have it."""
    return f"{prefix}/v2/models/{quote(model)}{f'/versions/{quote(version)}' if version else ''}"


def tls_context(address: ServerAddress) -> ssl.SSLContext:
    """Return the TLS settings for a client of that address. Raises InvalidArgument for files that cannot be used."""
    try:
        return address.tls.context("http/1.1")
    except OSError as error:
        raise InvalidArgument(f"the files for TLS cannot be used: {error}") from None


class RestTarget:
    """See `target.Target`."""

    def __init__(self, address: ServerAddress, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.address = address
        self._server: ServerInfo | None = None
        # No proxy of the environment: what is measured is the server.
        self._client = httpx.Client(
            base_url=f"{'https' if address.secure else 'http'}://{address.netloc}",
            verify=tls_context(address) if address.secure else True,
            trust_env=False,
            timeout=ASK_TIMEOUT_S,
            headers=[("accept-encoding", "identity"), *headers],
        )

    def server(self) -> ServerInfo:
        if self._server is None:
            path = f"{self.address.prefix}/v2"
            answer = self._send("GET", path)
            if answer.status_code == 404:
                answer = self._send("GET", f"{path}/")
            said = _json(answer)
            self._admitted(answer)
            if answer.status_code != 200 or not isinstance(said, dict) or "name" not in said:
                raise InvalidArgument(
                    f"{self.address.url} does not speak the Open Inference Protocol: GET {path} answered {answer.status_code}"
                    f" {answer.text[:120]!r}"
                )
            self._server = ServerInfo(str(said["name"]), str(said.get("version") or ""), tuple(map(str, said.get("extensions") or ())))
        return self._server

    def ready(self, model: str, version: str = "") -> bool:
        return self._send("GET", f"{model_path(self.address.prefix, model, version)}/ready").status_code == 200

    def model(self, name: str, version: str = "") -> ModelInfo:
        path = model_path(self.address.prefix, name, version)
        answer = self._send("GET", path)
        if answer.status_code in (400, 404):
            self.server()  # tells apart "not this model" and "no such protocol"
            raise unknown_model(name, version, _error(answer), self._models())
        said = _json(answer)
        self._admitted(answer)
        if answer.status_code != 200 or not isinstance(said, dict):
            raise Unavailable(f"{self.address.url} does not describe model '{name}': {answer.status_code} {_error(answer)}")
        config = None
        if self.server().has("model_configuration"):
            answer = self._send("GET", f"{path}/config")
            config = _json(answer) if answer.status_code == 200 else None
        return model_info(name, version, said, config if isinstance(config, dict) else None)

    def statistics(self, model: str, version: str = "") -> list[dict[str, Any]] | None:
        answer = self._send("GET", f"{model_path(self.address.prefix, model, version)}/stats")
        said = _json(answer)
        if answer.status_code != 200 or not isinstance(said, dict):
            return None
        return [entry for entry in said.get("model_stats") or () if isinstance(entry, dict)]

    def infer(self, path: str, headers: tuple[tuple[str, str], ...], body: bytes) -> bytes:
        answer = self._send("POST", path, headers=list(headers), content=body, timeout=INFER_TIMEOUT_S)
        if answer.status_code != 200:
            kind = NotFound if answer.status_code == 404 else InvalidArgument if answer.status_code < 500 else ServingError
            raise kind(f"the server answered {answer.status_code}: {_error(answer)}")
        return answer.content

    def close(self) -> None:
        self._client.close()

    def _admitted(self, answer: httpx.Response) -> None:
        if answer.status_code in (401, 403):
            raise unknown_asker(self.address, f"{answer.status_code} {_error(answer)}")

    def _models(self) -> list[str]:
        try:
            answer = self._send("POST", f"{self.address.prefix}/v2/repository/index", content=b"{}")
        except Unavailable:
            return []
        return index_names(_json(answer)) if answer.status_code == 200 else []

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **more)
        except httpx.TimeoutException:
            raise Unavailable(f"{self.address.url} does not answer {method} {path}") from None
        except (httpx.HTTPError, OSError) as error:
            hint = "is it the port of gRPC? then --protocol grpc" if isinstance(error, httpx.RemoteProtocolError) else "is the server up?"
            raise Unavailable(f"{self.address.url} cannot be reached ({error}); {hint}") from None


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _error(answer: httpx.Response) -> str:
    said = _json(answer)
    words = said.get("error") or said.get("detail") if isinstance(said, dict) else None
    return str(words or answer.text)[:300] or "no more was said"
