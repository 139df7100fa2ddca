"""Starts the engine with the sample models and compares its answers with the truth. Called by scripts/quickstart."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import samples
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002, "control": 8003}
ENOUGH = 0.95
"""Share of the held-out digits that version 2 has to get right."""

out = Console(highlight=False)


class Failed(Exception):
    """The engine did not start or does not answer as it should."""


class Engine:
    """`serving up` as a child, its lines passed on."""

    def __init__(self, files: list[str], ports: dict[str, int], options: list[str]) -> None:
        argv = [str(ROOT / ".venv" / "bin" / "serving"), "up", *files, *options]
        for name, port in ports.items():
            argv += [f"--{name}-port", str(port)]
        # A session of its own: Ctrl-C reaches this process alone, which then stops the engine in order.
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    def wait_ready(self, patience_s: float) -> None:
        end = time.monotonic() + patience_s
        while not self._ready.wait(0.1):
            if self.process.poll() is not None:
                raise Failed(f"the engine ended with {self.process.returncode} before it was ready")
            if time.monotonic() > end:
                raise Failed(f"the engine was not ready after {patience_s:.0f} s")

    def stop(self) -> None:
        """End the engine in order; a second Ctrl-C, or 60 s, and it is told not to wait for anything."""
        for patience_s in (60, 10):
            if self.process.poll() is None:
                self.process.terminate()
                try:
                    self.process.wait(patience_s)
                except (subprocess.TimeoutExpired, KeyboardInterrupt):
                    continue
        self.process.kill()
        self.process.wait()
        self._reader.join(5)

    def _pass_on(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            out.print(f"  {line.rstrip()}", markup=False, soft_wrap=True)
            if "ready http://" in line:
                self._ready.set()


def main() -> int:
    arguments = _arguments()
    # SIGTERM unwinds like Ctrl-C, so that the engine is stopped either way. A shell starts what runs behind it with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    names = ["digits", "imagenet"] if arguments.imagenet else ["digits"]
    subprocess.run([sys.executable, str(ROOT / "scripts" / "samples.py"), *names], check=True)
    with ExitStack() as stack:
        ports, moved = _ports(arguments)
        options: list[str] = ["--host", arguments.host]
        if arguments.state_dir:
            options += ["--state-dir", arguments.state_dir]
        elif arguments.check or moved:
            options += ["--state-dir", stack.enter_context(tempfile.TemporaryDirectory(prefix="serving-"))]
        files = [str(ROOT / "configs" / f"{name}.yaml") for name in ("quickstart", *names[1:])]
        out.print(f"starting: serving up {' '.join(os.path.relpath(file) for file in files)}", soft_wrap=True)
        engine = Engine(files, ports, options)
        stack.callback(engine.stop)
        try:
            engine.wait_ready(arguments.patience)
            http = stack.enter_context(triton_http.InferenceServerClient(f"{arguments.host}:{ports['http']}", network_timeout=30))
            grpc = stack.enter_context(triton_grpc.InferenceServerClient(f"{arguments.host}:{ports['grpc']}"))
            _digits(http, grpc)
            if arguments.imagenet:
                _imagenet(http, grpc)
            out.print(f"all right, {time.monotonic() - began:.0f} s")
            if not arguments.check:
                _say_what_next(arguments.host, ports)
                engine.process.wait()
        except (Failed, triton_http.InferenceServerException) as error:
            out.print(f"failed: {error}", style="red", markup=False, soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            return 130 if arguments.check else 0
    return 0


def _digits(http: triton_http.InferenceServerClient, grpc: triton_grpc.InferenceServerClient) -> None:
    """Ask for all held-out digits, 60 rows a request; show ten of them and the shares that are right."""
    x, truth = samples.held_out()
    output = http.get_model_metadata("digits")["outputs"][0]["name"]
    answers = {
        "REST": _ask(http, triton_http, "digits", output, x),
        "gRPC": _ask(grpc, triton_grpc, "digits", output, x),
        "version 1": _ask(http, triton_http, "digits", output, x, version="1"),
    }
    table = Table(title="handwritten digits that training never saw")
    for column in ("truth", *answers):
        table.add_column(column, justify="right")
    for i in range(10):
        table.add_row(str(truth[i]), *(f"{y[i].argmax()} ({y[i].max():.0%})" for y in answers.values()))
    right = {name: float((y.argmax(1) == truth).mean()) for name, y in answers.items()}
    table.add_row(f"all {len(truth)}", *(f"{share:.1%}" for share in right.values()), style="bold")
    out.print(table)
    if right["REST"] < ENOUGH or right["gRPC"] < ENOUGH:
        raise Failed(f"fewer than {ENOUGH:.0%} of the digits are right")
    if not np.allclose(answers["REST"], answers["gRPC"], atol=1e-5):
        raise Failed("REST and gRPC do not agree")


def _imagenet(http: triton_http.InferenceServerClient, grpc: triton_grpc.InferenceServerClient) -> None:
    table = Table(title="photographs")
    for column in ("photograph", "REST", "gRPC"):
        table.add_column(column)
    wrong = []
    output = http.get_model_metadata("imagenet")["outputs"][0]["name"]
    for name, truth in samples.PHOTOGRAPHS.items():
        x = samples.photograph(name)[None]
        cells = []
        for client, library in ((http, triton_http), (grpc, triton_grpc)):
            y = _ask(client, library, "imagenet", output, x)[0]
            best = y.argsort()[::-1][:5]
            cells.append("\n".join(f"{samples.label(int(i))} {y[i]:.0%}" for i in best))
            if best[0] != truth:
                wrong.append(name)
        table.add_row(name, *cells)
    out.print(table)
    if wrong:
        raise Failed(f"the class of {wrong[0]} is wrong")


def _ask(client, library, model: str, output: str, x: np.ndarray, version: str = "") -> np.ndarray:  # type: ignore[no-untyped-def,type-arg]
    """Send `x` in binary tensors of at most 60 rows; return all rows of the model's output."""
    rows = []
    for start in range(0, len(x), 60):
        part = x[start : start + 60]
        tensor = library.InferInput("x", part.shape, "FP32")
        tensor.set_data_from_numpy(part)
        answer = client.infer(model, [tensor], model_version=version, outputs=[library.InferRequestedOutput(output)])
        rows.append(answer.as_numpy(output))
    return np.concatenate(rows)


def _say_what_next(host: str, ports: dict[str, int]) -> None:
    rest, x = f"http://{host}:{ports['http']}", samples.held_out()[0][0]
    data = ",".join(f"{pixel:g}" for pixel in x)
    control = "" if ports["control"] == PORTS["control"] else f" --url http://{host}:{ports['control']}"
    out.print(
        f"""
The engine stays up; Ctrl-C stops it. In another terminal:
  curl -s {rest}/v2/models/digits
  curl -s {rest}/v2/models/digits/infer -d '{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,64],"data":[{data}]}}]}}'
  {os.path.relpath(ROOT / ".venv" / "bin" / "serving")} status{control}
  {os.path.relpath(ROOT / "configs" / "quickstart.yaml")} declares the models: change it and `serving apply{control} FILE` takes it over""",
        markup=False,
        soft_wrap=True,
    )


def _ports(arguments: argparse.Namespace) -> tuple[dict[str, int], bool]:
    """The ports that are named, else the usual ones; where one of those is in use, free ones instead. Returns whether that was so."""
    named = {name: getattr(arguments, f"{name}_port") for name in PORTS}
    ports = {name: named[name] or usual for name, usual in PORTS.items()}
    taken = [port for name, port in ports.items() if not named[name] and not _is_free(arguments.host, port)]
    if taken:
        out.print(f"port {', '.join(map(str, taken))} is in use: taking free ones")
        ports = {name: named[name] or free for name, free in zip(PORTS, _free(arguments.host, len(PORTS)), strict=True)}
    return ports, bool(taken)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError:
            return False
        return True


def _free(host: str, count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind((host, 0))
        return [s.getsockname()[1] for s in sockets]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/quickstart", description="From a fresh clone to answered predictions.")
    parser.add_argument("--check", action="store_true", help="stop everything at the end; exit 0 if all answers were right, else 1")
    parser.add_argument("--imagenet", action="store_true", help="also serve EfficientNet-Lite0 and ask it about two photographs")
    parser.add_argument("--host", default="127.0.0.1")
    for name, usual in PORTS.items():
        parser.add_argument(f"--{name}-port", type=int, help=f"{usual}, or a free one where that is in use")
    parser.add_argument("--state-dir", help="of the engine; its own default, or a temporary one with --check")
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait until the engine is ready")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
