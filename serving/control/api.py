"""The control API: JSON over HTTP on the control port. Errors are `{"error": "..."}`.

    GET    /api/status             what runs, what is waited for
    GET    /api/ready              200 when every stable version answers, else 503
    GET    /api/target             the accepted Target
    POST   /api/apply              {"target": Target} or {"files": [{"name", "text"}]}, "replace": false, "wait_s": 0;
                                   also "author", "reason", "texts", "expect", which say who, why, from which YAML, and onto what
    DELETE /api/models/{name}      ?wait_s=0&author=&reason=
    POST   /api/down               ends the engine

A change is answered with its revision and the status, when every gateway has the new routes to versions that are ready (or after 5 s).
With wait_s it is answered when everything is settled: what has to start is ready and has its traffic, or has failed. A browser's
request from another site changes nothing (403). A change that somebody has to approve is kept and answered 202 (approval_api.py).
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import APIRouter, Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.exceptions import HTTPException

from serving.access.credential import CHALLENGE
from serving.control.acceptance import Act
from serving.control.approval import Approvals
from serving.control.author import author_of, identity_of
from serving.control.edit import Conflict, merged, without
from serving.control.guard import Guard, permitted
from serving.control.order import Intent, Parse, Reason, Text, target_of
from serving.control.ports import YamlText
from serving.control.runner import Runner
from serving.errors import Code, ServingError, Unavailable
from serving.plan import Target, fingerprint
from serving.tls import ServerCertificate

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 3600.0
MAX_BODY_BYTES = 32 << 20
_STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.UNAVAILABLE: 503,
}
_CHALLENGE = {"www-authenticate": CHALLENGE.decode().partition(": ")[2].strip()}
Wait = Annotated[float, Field(ge=0, le=LONGEST_WAIT_S)]


class Apply(Intent):
    """What shall run from now on. `expect`: fingerprint of the target that it is to be put on."""

    wait_s: Wait = 0.0
    author: str = ""
    reason: Reason = "apply"
    texts: list[Text] = Field([])
    expect: str = ""


Middleware = Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]


def create_app(
    runner: Runner,
    parse: Parse,
    down: Callable[[], None],
    about: dict[str, Any],
    routers: Sequence[APIRouter] = (),
    guard: Guard | None = None,
    approvals: Approvals | None = None,
) -> FastAPI:
    """Return the ASGI application. `about` is added to every status; `down` is to end the engine soon, not at once;
    `guard` looks who asks, `approvals` which changes wait; such a one is answered 202, with "approval" and the revision that goes on."""
    app = FastAPI(title="serving", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    if guard is not None:
        app.middleware("http")(_identified(guard))
    app.middleware("http")(_same_site_only(guard))
    app.middleware("http")(_of_a_fitting_size)
    app.exception_handler(ServingError)(_serving_error)
    app.exception_handler(RequestValidationError)(_validation_error)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(UnicodeEncodeError)(_half_a_character)

    def change(
        request: Request, response: Response, edit: Callable[[Target], Target], act: Act, wait_s: float, again: Collection[str] = ()
    ) -> dict[str, Any]:
        identity = identity_of(request)
        if approvals is None:
            revision, waits = runner.change(permitted(identity, edit), act, again), None
        else:
            revision, waits = approvals.change(identity, permitted(identity, edit), act, again)
        if waits is not None:
            response.status_code = 202
            return {**about, **runner.status.to_json(), "revision": revision, "approval": waits.told()}
        status = runner.wait(revision, wait_s)
        return {**about, **status.to_json(), "revision": revision}

    @app.get("/api/status")
    def status() -> dict[str, Any]:
        return {**about, **runner.status.to_json()}

    @app.get("/api/ready")
    def ready() -> JSONResponse:
        now = runner.status.ready
        return JSONResponse({"ready": now}, 200 if now else 503)

    @app.get("/api/target")
    def target() -> dict[str, Any]:
        return runner.target.to_json()

    @app.post("/api/apply")
    def apply(order: Apply, request: Request, response: Response) -> dict[str, Any]:
        new = target_of(order.target, order.files, parse)
        texts = tuple(YamlText(f.name, f.text) for f in order.files or order.texts)
        act = Act(author_of(request, order.author), order.reason, "apply", texts)

        def edit(now: Target) -> Target:
            if order.expect and fingerprint(now) != order.expect:
                raise Conflict("the engine is no longer what the plan was made against; make a new one")
            return new if order.replace else merged(now, new)

        return change(request, response, edit, act, order.wait_s, new.routes.routes)

    @app.delete("/api/models/{name}")
    def delete(
        name: str, request: Request, response: Response, wait_s: Wait = 0.0, author: str = "", reason: Reason = ""
    ) -> dict[str, Any]:
        act = Act(author_of(request, author), reason or f"delete {name}", "delete")
        return change(request, response, lambda now: without(now, name), act, wait_s)

    @app.post("/api/down")
    def stop(_: Annotated[dict[str, Any] | None, Body()] = None) -> dict[str, Any]:
        down()
        return {"stopping": True}

    for more in routers:
        app.include_router(more)
    return app


async def _serving_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)
    headers = _CHALLENGE if error.code is Code.UNAUTHENTICATED else None
    return JSONResponse({"error": error.message}, 409 if isinstance(error, Conflict) else _STATUS.get(error.code, 500), headers)


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    words = [f"{'.'.join(str(step) for step in e['loc'][1:]) or 'body'}: {e['msg']}" for e in error.errors()]
    return JSONResponse({"error": "; ".join(words)}, 400)


async def _http_error(_: Request, error: Exception) -> Response:
    """A path that there is not, or another method than it has."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _half_a_character(_: Request, error: Exception) -> Response:
    """JSON may name a lone surrogate, which cannot be kept; nothing has been."""
    return JSONResponse({"error": "the request holds half a character (a lone surrogate)"}, 400)


def _identified(guard: Guard) -> Middleware:
    async def identified(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        """Find out who asks, before anything of the body is read."""
        try:
            headers = dict(reversed(request.headers.raw))
            request.state.identity = guard.admit(request.method, request.url.path, headers)
        except ServingError as error:
            return await _serving_error(request, error)
        return await go_on(request)

    return identified


def _same_site_only(guard: Guard | None) -> Middleware:
    async def same_site_only(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        """Refuse what a web page of another site makes a browser send: writes across sites, and what comes under a name of that site."""
        host = request.headers.get("host", "")
        try:
            ours = _is_ours(urlsplit(f"//{host}").hostname or "")
            elsewhere = (origin := request.headers.get("origin")) is not None and urlsplit(origin).netloc != host
        except ValueError:  # half an IPv6 address
            return JSONResponse({"error": "Host or Origin cannot be read"}, 400)
        # with TLS a browser has held the name against our certificate; where keys are asked for, that page has none
        if not ours and request.url.scheme != "https" and not (guard is not None and guard.asks):
            return JSONResponse({"error": f"this engine is not called '{host}'; use its address"}, 403)
        if request.method not in ("GET", "HEAD"):
            across = request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
            if across or elsewhere:
                return JSONResponse({"error": "refused: this request comes from a page of another site"}, 403)
        return await go_on(request)

    return same_site_only


def _is_ours(name: str) -> bool:
    """A page that has its name resolve to our address would be of the same site; so names are not taken, but for these."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in ("localhost", socket.gethostname(), socket.getfqdn())
    return True


async def _of_a_fitting_size(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse a body that is too large before it is read, and one that does not say how large it is."""
    if "transfer-encoding" in request.headers:
        return JSONResponse({"error": "send Content-Length: a body in chunks is not taken here"}, 411)
    # the server has refused one that is no number
    if int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES:
        return JSONResponse({"error": f"the body is larger than {MAX_BODY_BYTES} bytes"}, 413, {"connection": "close"})
    return await go_on(request)


class ApiServer:
    """Serves the app in a thread of its own."""

    def __init__(self, app: FastAPI, host: str, port: int, certificate: ServerCertificate | None = None) -> None:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2, loop="asyncio", proxy_headers=False
        )
        if certificate is not None:
            config.load()
            config.ssl = certificate.context
        self._certificate = certificate
        self._server = uvicorn.Server(config)
        self._address = (host, port)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen. Raises Unavailable where the port is taken."""
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(self._address)
        except OSError as error:
            listener.close()
            raise Unavailable(f"control port {self._address[1]} on {self._address[0]}: {error.strerror}") from error
        listener.listen(128)
        if self._certificate is not None:
            self._certificate.follow()
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="control api", daemon=True)
        self._thread.start()

    def healthy(self) -> None:
        """Raise Unavailable when the thread has ended."""
        if self._thread is None or not self._thread.is_alive():
            raise Unavailable("the control API has ended")

    def stop(self) -> None:
        self._server.should_exit = True
        if self._certificate is not None:
            self._certificate.close()
        if self._thread is not None:
            self._thread.join(5.0)
