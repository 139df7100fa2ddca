"""tritonclient as the sender: what a program feels that uses it. Inputs are made and outputs read as numpy arrays, and that counts.

`run_threads`: its synchronous clients, one and a thread for each request under way. `run_loop`: those for asyncio, in one loop.
One process: the GIL bounds what such a program can send, and that is part of what it feels.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from http.client import HTTPException
from time import monotonic_ns
from typing import Any

import aiohttp
import tritonclient.grpc as sync_grpc
import tritonclient.grpc.aio as aio_grpc
import tritonclient.http as sync_http
import tritonclient.http.aio as aio_http
from tritonclient.utils import InferenceServerException

from serving.bench.answers import compare
from serving.bench.encode import Work
from serving.bench.load import Load
from serving.bench.recording import Progress, Recording
from serving.bench.rest_target import tls_context
from serving.bench.target import ServerAddress
from serving.bench.turns import LOST, LOST_PAUSE_S, POLL_S, Stop, Turn, Turns, clients_of, send_in_loop
from serving.tensor import DType

MAX_THREADS = 64
"""Of an open loop that names no connections: more threads than this only wait for each other."""
START_S = 60.0
CHANNEL = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
CLIENT_ERRORS = (OSError, HTTPException, aiohttp.ClientError)
"""What the clients over HTTP raise for a connection that fails; gevent's are HTTPExceptions."""


class _Call:
    """One kind of request, as a program writes it that uses tritonclient."""

    def __init__(self, address: ServerAddress, work: Work, load: Load) -> None:
        self._work = work
        order = work.order
        self._library: Any = sync_grpc if address.protocol == "grpc" else sync_http
        self._json = order.encoding == "json"
        self._names = order.outputs
        # The clients for asyncio and over HTTP have no time-out of a call; theirs is the connection's.
        self._more: dict[str, Any] = {"client_timeout": load.timeout_s} if address.protocol == "grpc" else {}
        if order.headers:
            self._more["headers"] = dict(order.headers)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `infer`, made anew for each request."""
        inputs = []
        binary = {} if self._library is sync_grpc else {"binary_data": not self._json}
        for tensor in self._work.sample:
            made = self._library.InferInput(tensor.name, list(tensor.array.shape), tensor.dtype.label)
            made.set_data_from_numpy(tensor.array, **binary)
            inputs.append(made)
        outputs = [self._library.InferRequestedOutput(name, **binary) for name in self._names] or None
        info = self._work.order.info
        return {"model_name": info.name, "inputs": inputs, "outputs": outputs, "model_version": info.version, **self._more}

    def read(self, result: Any, check: bool) -> str | None:
        """Read the outputs as arrays; return what is wrong with them, where they are to be checked."""
        answer = {name: result.as_numpy(name) for name in self._names}
        if not check:
            return None
        typed = {name: (_dtype(result, name), array) for name, array in answer.items() if array is not None}
        return compare(typed, tuple(e for e in self._work.expected if e.name in self._names))


def _dtype(result: Any, name: str) -> DType:
    output = result.get_output(name)
    return DType.of(output["datatype"] if isinstance(output, dict) else output.datatype)


def run_threads(address: ServerAddress, works: Sequence[Work], load: Load, progress: Callable[[Progress], None], stop: Stop) -> Recording:
    """Send with the synchronous clients, one in each of some threads, and return what was measured."""
    turns = Turns(load, works, progress, stop)
    calls = [_Call(address, work, load) for work in works]
    count = clients_of(load, MAX_THREADS)
    ready = threading.Barrier(count + 1, timeout=START_S)
    threads = [threading.Thread(target=_send, args=(turns, address, load, calls, ready, stop), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    ready.wait()
    turns.begin()
    ready.wait()
    while not turns.tick(done=not any(thread.is_alive() for thread in threads)):
        threads[-1].join(POLL_S)
        if not threads[-1].is_alive():
            threads = [thread for thread in threads if thread.is_alive()] or threads
    recording = turns.recording()
    recording.connections = count
    return recording


def _send(turns: Turns, address: ServerAddress, load: Load, calls: Sequence[_Call], ready: threading.Barrier, stop: Stop) -> None:
    # Made here: what gevent makes belongs to the thread that it was made in.
    with _sync_client(address, load) as client:
        ready.wait()
        ready.wait()
        while (turn := turns.turn()) is not None:
            while (pause := turns.wait_s(turn)) > 0 and not stop.is_set():
                stop.wait(min(pause, POLL_S))
            if pause > 0:
                turns.drop(turn)
                break
            started = monotonic_ns()
            call = calls[turn.number]
            try:
                wrong = call.read(client.infer(**call.arguments()), turn.check)
                kind, text = ("wrong body", wrong) if wrong else ("", "")
            except InferenceServerException as error:
                kind, text = _failure(error)
            except CLIENT_ERRORS as error:
                kind, text = _lost(error)
            turns.note(turn, started, kind, text)
            if kind in LOST:
                stop.wait(LOST_PAUSE_S)


def run_loop(address: ServerAddress, works: Sequence[Work], load: Load, progress: Callable[[Progress], None], stop: Stop) -> Recording:
    """Send with the client for asyncio and return what was measured."""
    return asyncio.run(_run_loop(address, works, load, progress, stop))


async def _run_loop(
    address: ServerAddress, works: Sequence[Work], load: Load, progress: Callable[[Progress], None], stop: Stop
) -> Recording:
    turns = Turns(load, works, progress, stop)
    calls = [_Call(address, work, load) for work in works]
    async with _aio_client(address, load) as client:

        async def send(turn: Turn) -> tuple[str, str]:
            call = calls[turn.number]
            try:
                wrong = call.read(await client.infer(**call.arguments()), turn.check)
            except InferenceServerException as error:
                return _failure(error)
            except CLIENT_ERRORS as error:
                return _lost(error)
            return ("wrong body", wrong) if wrong else ("", "")

        await send_in_loop(turns, [send] * clients_of(load), stop)
    recording = turns.recording()
    recording.connections = 1 if address.protocol == "grpc" else clients_of(load)
    return recording


def _failure(error: InferenceServerException) -> tuple[str, str]:
    """Return kind and text in the words of the raw drivers."""
    status, message = str(error.status() or ""), str(error.message())
    if status.startswith("StatusCode."):
        name = status.removeprefix("StatusCode.")
        return ("timeout" if name == "DEADLINE_EXCEEDED" else f"grpc {name}"), message
    return (f"http {status[0]}xx", f"{status} {message}") if status.isdigit() else ("client", message)


def _lost(error: Exception) -> tuple[str, str]:
    text = f"{type(error).__name__}: {error}"
    return ("timeout" if isinstance(error, TimeoutError) else "connection"), text


def _sync_client(address: ServerAddress, load: Load) -> Any:
    tls = address.tls
    if address.protocol == "grpc":
        return sync_grpc.InferenceServerClient(address.netloc, channel_args=CHANNEL, **_grpc_tls(address))
    options = {"ca_certs": tls.ca_file or None, "certfile": tls.certificate or None, "keyfile": tls.key or None} if address.secure else None
    return sync_http.InferenceServerClient(
        f"{address.netloc}{address.prefix}",
        connection_timeout=load.timeout_s,
        network_timeout=load.timeout_s,
        ssl=address.secure,
        insecure=not tls.verify,
        ssl_options={name: value for name, value in (options or {}).items() if value},
    )


def _aio_client(address: ServerAddress, load: Load) -> Any:
    if address.protocol == "grpc":
        return aio_grpc.InferenceServerClient(address.netloc, channel_args=CHANNEL, **_grpc_tls(address))
    return aio_http.InferenceServerClient(
        f"{address.netloc}{address.prefix}",
        conn_limit=clients_of(load),
        conn_timeout=load.timeout_s,
        ssl=address.secure,
        ssl_context=tls_context(address) if address.secure else None,
    )


def _grpc_tls(address: ServerAddress) -> dict[str, Any]:
    tls = address.tls
    return {
        "ssl": address.secure,
        "root_certificates": tls.ca_file or None,
        "private_key": (tls.key or tls.certificate) if tls.certificate else None,
        "certificate_chain": tls.certificate or None,
    }
