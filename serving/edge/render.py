"""haproxy.cfg as text. Pure: an EdgeConfig in, text out; every line of it that matters is held by a test in tests/edge/test_rules.py.

One `bind` takes HTTP/1.1, h2 and h2c: HAProxy looks for the HTTP/2 preface on a clear connection and asks ALPN on a TLS one.
Calls go to the backend `grpc`, all else to `rest`; the two have the same servers and differ in the errors that HAProxy itself
answers with. Only `rest` sends health checks, `grpc` follows them. Gateways are fixed slots, so that the configuration never
changes while HAProxy runs.

Source for the options: the configuration manual of HAProxy 2.8.
"""

from __future__ import annotations

import json
from ipaddress import ip_address

from serving.edge.config import CLIENT_HEADER, HEALTH_PATH, EdgeConfig

CONFIG_FILE = "haproxy.cfg"
ADMIN_SOCKET = "haproxy.sock"
CERTIFICATE_FILE = "edge.pem"
CLIENT_CA_FILE = "edge-clients.pem"

_REASONS = {
    400: "the edge could not read this request",
    403: "the edge refused this request",
    408: "the request was not sent in time",
    413: "the request is too large for the edge",
    500: "the edge failed",
    502: "the gateway went away with the request in it; it may have run",
    503: "no gateway is ready",
    504: "no gateway answered in time",
}
_GRPC_STATUS = {502: 14, 503: 14, 504: 14, 408: 4, 400: 13, 403: 7, 413: 8, 500: 13}


def render(config: EdgeConfig) -> str:
    """Return haproxy.cfg. The files of `error_files` must lie beside it."""
    return "\n".join([*_global(config), *_defaults(config), *_frontend(config), *_backend(config, "rest"), *_backend(config, "grpc"), ""])


def error_files(config: EdgeConfig) -> dict[str, str]:
    """Return {file name: content} of the answers that HAProxy gives by itself.

    A gRPC one is a trailers-only answer: status 200, everything in the header, no body; any other form reads as a broken stream.
    """
    files = {}
    for status, reason in _REASONS.items():
        files[f"rest-{status}.http"] = _http(f"{status} Error", "application/json", json.dumps({"error": reason}), [])
        trailers = [f"grpc-status: {_GRPC_STATUS[status]}", f"grpc-message: {reason}"]
        files[f"grpc-{status}.http"] = _http("200 OK", "application/grpc", "", trailers)
    return files


def _http(status: str, content_type: str, body: str, headers: list[str]) -> str:
    lines = [f"HTTP/1.1 {status}", f"content-type: {content_type}", f"content-length: {len(body)}", "cache-control: no-store", *headers]
    return "\r\n".join(lines) + "\r\n\r\n" + body


def _global(config: EdgeConfig) -> list[str]:
    return [
        "global",
        f"    nbthread {config.threads}",
        f"    stats socket {_quoted(config.path(ADMIN_SOCKET))} mode 600 level admin",
        f"    hard-stop-after {_ms(config.soft_stop_s)}",
        "    fd-hard-limit 65536",
        # two servers on one port must be an error, never a split of its connections
        "    noreuseport",
        "    tune.bufsize 65536",
        "    tune.h2.max-frame-size 65536",
        "    tune.h2.fe.initial-window-size 1048576",
        # the default of 100 leaves the 101st stream of a channel waiting for ever behind 100 open ones
        "    tune.h2.fe.max-concurrent-streams 4096",
        "    spread-checks 0",
    ]


def _defaults(config: EdgeConfig) -> list[str]:
    return [
        "defaults",
        "    mode http",
        # gateways own all limits of time; these only collect what is dead
        "    timeout connect 100ms",
        "    timeout client 24h",
        "    timeout server 24h",
        "    timeout tunnel 24h",
        "    timeout queue 24h",
        "    timeout http-keep-alive 24h",
        "    timeout http-request 15s",
        "    timeout client-fin 30s",
        "    timeout check 3s",
        "    option clitcpka",
        "    clitcpka-idle 60s",
        "    clitcpka-intvl 15s",
        "    clitcpka-cnt 4",
        "    option http-no-delay",
        "    option http-ignore-probes",
        # a request that never reached a gateway goes to the next one; one that may have is never sent again
        f"    retries {max(3, config.slots)}",
        "    retry-on conn-failure",
        "    option redispatch 1",
        "    http-reuse always",
        "    balance leastconn",
        *_errors(config, "rest"),
    ]


def _frontend(config: EdgeConfig) -> list[str]:
    tls = f" ssl crt {_quoted(config.path(CERTIFICATE_FILE))} alpn h2,http/1.1 ssl-min-ver TLSv1.2" if config.tls_certificate else ""
    if config.tls_client_ca:
        tls += f" ca-file {_quoted(config.path(CLIENT_CA_FILE))} verify required no-tls-tickets"
    ports = [config.grpc_port, *([config.http_port] if config.rest_through_edge else [])]
    not_found = '{"error":"not found"}'
    return [
        "frontend edge",
        *(f"    bind {_address(config.host, port)} backlog 4096 tcp-ut 60s{tls}" for port in ports if port),
        f"    http-request set-header {CLIENT_HEADER} %[src]",
        f"    http-request return status 404 content-type application/json string {_quoted(not_found)} if {{ path_beg /edge/ }}",
        "    use_backend grpc if { req.hdr(content-type) -m beg application/grpc }",
        "    default_backend rest",
    ]


def _backend(config: EdgeConfig, name: str) -> list[str]:
    lines = [f"backend {name}"]
    if name == "rest":
        lines += [
            "    option httpchk",
            f"    http-check send meth GET uri {HEALTH_PATH} ver HTTP/1.1 hdr host edge hdr connection close",
            "    http-check expect status 200",
        ]
        follow = f"check inter {_ms(config.check_every_s)} fall 1 rise 1"
    else:
        lines += _errors(config, name)
        follow = "track rest/g{slot}"
    lines += [
        f"    server g{slot} {_quoted('unix@' + config.gateway_path(slot))} {follow.format(slot=slot)}" for slot in range(config.slots)
    ]
    return lines


def _errors(config: EdgeConfig, name: str) -> list[str]:
    return [f"    errorfile {status} {_quoted(config.path(f'{name}-{status}.http'))}" for status in _REASONS]


def _address(host: str, port: int) -> str:
    try:
        return f"[{host}]:{port}" if ip_address(host).version == 6 else f"{host}:{port}"
    except ValueError:
        return f"{host}:{port}"


def _ms(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def _quoted(text: str) -> str:
    """Return `text` as one strong-quoted word of the configuration."""
    return "'" + text.replace("'", "'\\''") + "'"
