"""What `access:` and `tls:` say beyond their face: grants that can be read, files that are there and are what they should be."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

from serving.access.identity import Grant
from serving.access.token import public_keys
from serving.errors import InvalidArgument
from serving.spec.artefact import located as path_of
from serving.spec.face import EngineFace
from serving.spec.problem import Finding, dotted, quoted
from serving.spec.security_face import JwtFace, TlsFace


def located(engine: EngineFace, folder: Path) -> EngineFace:
    """Return the settings with paths that do not depend on where the file lies."""
    jwt = engine.access.jwt
    if jwt is not None:
        jwt = jwt.model_copy(update={"jwks": str(path_of(folder, jwt.jwks))})
    given = {name: str(path_of(folder, path)) for name, path in engine.tls.model_dump().items() if path}
    access = engine.access.model_copy(update={"jwt": jwt})
    return engine.model_copy(update={"access": access, "tls": engine.tls.model_copy(update=given)})


def security_findings(engine: EngineFace, folder: Path) -> Iterator[Finding]:
    if engine.access.jwt is not None:
        yield from _jwt(engine.access.jwt, folder)
    yield from _tls(engine.tls, folder)


def _jwt(jwt: JwtFace, folder: Path) -> Iterator[Finding]:
    at = ("access", "jwt")
    for name, grant in jwt.roles.items():
        try:
            Grant.of(grant)
        except InvalidArgument as error:
            yield Finding((*at, "roles", name), f"{dotted((*at, 'roles', name))}: {error.message}")
    path = path_of(folder, jwt.jwks)
    try:
        public_keys(path.read_text())
    except (OSError, ValueError, InvalidArgument) as error:
        said = error.message if isinstance(error, InvalidArgument) else _said(error)
        yield Finding((*at, "jwks"), f"{dotted((*at, 'jwks'))}: {quoted(str(path))}: {said}")


def _tls(tls: TlsFace, folder: Path) -> Iterator[Finding]:
    for name in ("key", "client_ca"):
        if getattr(tls, name) and not tls.certificate:
            yield Finding(("tls", name), f"tls.{name}: without tls.certificate there is no TLS")
    if not tls.certificate:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = path_of(folder, tls.certificate)
    try:
        context.load_cert_chain(certificate, path_of(folder, tls.key) if tls.key else None, password="")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        yield Finding(("tls", "certificate"), f"tls.certificate: {quoted(str(certificate))} and its key cannot be used: {_said(error)}")
    if tls.client_ca:
        path = path_of(folder, tls.client_ca)
        try:
            context.load_verify_locations(path)
        except (OSError, ValueError) as error:
            yield Finding(("tls", "client_ca"), f"tls.client_ca: {quoted(str(path))} is no CA's certificate: {_said(error)}")


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    return (error.strerror or str(error)) if isinstance(error, OSError) else "not text"
