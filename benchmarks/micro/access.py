"""What access costs a gateway for one request: `python -m benchmarks.micro.access [--json]`.

"cached": a head that has come before, with a key that may ask this one model: the difference to the same head while access is off.
"quota": the look at what a caller has used, counted by this gateway alone and with others (the table has 1 and 12 lanes).
"new head": the gate's part of a head that is seen for the first time. The best of several rounds, so that a busy machine shows less.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from serving.access.identity import Identity
from serving.access.key import KeyHash, new_key
from serving.access.settings import AccessRules, JwtSettings
from serving.access.token import public_keys
from serving.gateway.client_limits import ClientLimits, client_name
from serving.gateway.gate import Gate
from serving.gateway.head import Action, Head, HeadCache, parse_head
from serving.gateway.quota_table import QuotaTable
from serving.state import GatewayLimits

CALLS, ROUNDS = 20_000, 15
PATH = "/v2/models/mlp/infer"
GOAL_US = 3.0


def head_of(line: str, path: str = PATH) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost:8000\r\nContent-Length: 300\r\n{line}\r\n\r\n".encode()


def _nothing(connection: Any, head: Head, body: Any) -> None:
    """Stands for the prediction."""


def _action(head: Head) -> Action:
    return Action(_nothing, None, _nothing if head.path.startswith("/inference") else None)  # type: ignore[arg-type]


def _best_us(run: Callable[[], object], calls: int = CALLS) -> float:
    return min(timeit.repeat(run, number=calls, repeat=ROUNDS)) / calls * 1e6


def figures() -> dict[str, float]:
    """Return microseconds by name."""
    key, number, digest = new_key()
    private = {"RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048), "ES256": ec.generate_private_key(ec.SECP256R1())}
    keys = [
        {**jwt.get_algorithm_by_name(kind).to_jwk(private[kind].public_key(), as_dict=True), "kid": kind}  # type: ignore[call-overload]
        for kind in private
    ]
    rules = AccessRules(
        (KeyHash(number, digest, "bench", ("predictor:mlp",)),),
        JwtSettings("", "idp", ("serving",)),
        public_keys(json.dumps({"keys": keys})),
    )
    claims = {"sub": "bench", "iss": "idp", "aud": "serving", "exp": time.time() + 3600, "roles": ["predictor:mlp"]}
    tokens = {kind: jwt.encode(claims, private[kind], kind, headers={"kid": kind}) for kind in private}  # type: ignore[arg-type]
    gate, off = Gate(), Gate()
    gate.apply(rules)

    def cached(use: Gate, line: str, path: str = PATH) -> Callable[[], None]:
        heads = HeadCache(lambda head: use.guard(head, _action(head), None if path == PATH else lambda _, body: body))
        block = head_of(line, path)
        heads.get(block)
        find = heads.find

        def run() -> None:
            head = find(block)
            assert head is not None
            head.action.run(None, head, b"")
            if head.visitor is not None:
                head.visitor.check("mlp")

        return run

    bearer = f"Authorization: Bearer {key}"
    grpc = "/inference.GRPCInferenceService/ModelInfer"
    base = _best_us(cached(off, bearer))
    found = {
        "off, REST": base,
        "cached, REST": _best_us(cached(gate, bearer)) - base,
        "cached, REST, token": _best_us(cached(gate, f"Authorization: Bearer {tokens['RS256']}"))
        - _best_us(cached(off, f"Authorization: Bearer {tokens['RS256']}")),
        "cached, gRPC": _best_us(cached(gate, bearer, grpc)) - _best_us(cached(off, bearer, grpc)),
    }
    found |= quotas()
    for name, line in {"key": bearer, **{kind: f"Authorization: Bearer {token}" for kind, token in tokens.items()}}.items():
        head = parse_head(head_of(line))
        found[f"new head, {name}"] = _best_us(lambda head=head: gate.guard(head, _action(head)), 500)  # type: ignore[misc]
    for kind, token in tokens.items():
        head = parse_head(head_of(f"Authorization: Bearer {token}"))

        def stranger(head: Head = head) -> None:
            assert gate.door is not None
            gate.door._known.clear()
            gate._visitors.clear()
            gate.guard(head, _action(head))

        found[f"new token, {kind}"] = _best_us(stranger, 50)
    return found


def quotas() -> dict[str, float]:
    """Return what a quota costs for each request."""
    name = client_name(Identity("ci", ()))
    found = {}
    rate = AccessRules((KeyHash("id", "digest", "ci", ("predictor",), requests_per_s=1e6, burst=10**9),))
    both = AccessRules((KeyHash("id", "digest", "ci", ("predictor",), requests_per_s=1e6, burst=10**9, inflight_requests=10**6),))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for what, rules, lanes in (("rate", rate, 0), ("rate", rate, 1), ("rate", rate, 12), ("rate and under way", both, 12)):
            limits = ClientLimits(GatewayLimits(), rules)
            for lane in range(lanes):
                limits.table = QuotaTable(Path(folder) / str(lanes), lane, time.monotonic())

            def run(limits: ClientLimits = limits) -> None:
                client = limits.ask(name, time.monotonic())
                client.enter()
                client.leave()

            found[f"quota of {what}, " + (f"{lanes} lanes" if lanes else "alone")] = _best_us(run)
    return found


def main() -> None:
    found = figures()
    if "--json" in sys.argv:
        print(json.dumps(found))
        return
    for name, us in found.items():
        over = f"   over the goal of {GOAL_US:g} µs" if name.startswith("cached") and us > GOAL_US else ""
        print(f"{name:34} {us:8.2f} µs{over}")


if __name__ == "__main__":
    main()
