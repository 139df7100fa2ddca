"""The whole generator, with its processes: what it measures is right, and it ends as it should."""

from __future__ import annotations

import math
import os
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

import pytest

from benchmarks.machine import stolen_s
from serving.bench.arrivals import Constant, Poisson, Recorded
from serving.bench.dial import Tls
from serving.bench.fleet import generate
from serving.bench.load import Closed, Load, Open
from serving.bench.recording import Progress, Recording
from serving.bench.session import Wire
from serving.errors import Internal, InvalidArgument, Unavailable
from tests.bench.drive import few, request
from tests.bench.servers import Answer, Asked, FakeServer

ROOT = Path(__file__).parents[2]


def server_protocol(wire: Wire) -> str:
    return "h2" if wire == "grpc" else "http1"


def lognormal_s(number: int, median_s: float = 0.2, sigma: float = 0.4) -> float:
    """Return the delay of the request with this number: all together, an even sample of the distribution in a mixed order."""
    quantile = (0.5 + number * 0.6180339887498949) % 1.0
    return median_s * math.exp(sigma * NormalDist().inv_cdf(min(max(quantile, 1e-6), 1 - 1e-6)))


def of_server(server: FakeServer, percent: float) -> float:
    times = sorted(server.times_ns)
    return times[math.ceil(percent / 100 * len(times)) - 1]


class Oversleep:
    """How late a thread of this process wakes up: what others on this machine cost whoever measures time here."""

    def __init__(self) -> None:
        self._late_s: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Oversleep:
        self._thread.start()
        return self

    def stop(self) -> float:
        """Return the 98th percentile, in seconds."""
        self._ended.set()
        self._thread.join()
        return sorted(self._late_s)[len(self._late_s) * 98 // 100]

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            ended = self._ended.wait(0.01)
            if ended and self._late_s:
                return
            self._late_s.append(time.monotonic() - began - 0.01)


@pytest.mark.parametrize("wire", ["rest", "grpc"])
@pytest.mark.parametrize(
    "load",
    [few(600, concurrency=40, processes=2), Load(Open(Poisson(180), 500), duration_s=0, max_requests=600, processes=2)],
    ids=["closed", "open"],
)
def test_a_known_distribution_is_measured(wire: Wire, load: Load) -> None:
    """Within 2 % at p50 and 5 % at p99 of what the server itself measured for the same requests.

    In the open loop a latency begins when the request was due: what the machine made the generator late is in it, and known.
    """
    off: list[str] = []
    quiet = 0
    for _ in range(6):  # a neighbour that takes the processor for a while is not the generator's fault: one run has to hold
        stolen = stolen_s()
        waiting = Oversleep().start()
        with FakeServer(lambda asked: Answer(delay_s=lognormal_s(asked.number)), server_protocol(wire)) as server:
            recording = generate(server.address, wire, [request(wire)], load)
        quiet += waiting.stop() < 0.002 and stolen_s() - stolen < 0.03
        assert recording.errors == {}
        assert recording.answers == len(server.times_ns) == 600
        assert recording.processes == 2
        off = []
        for percent, share in ((50, 0.02), (99, 0.05)):
            served, late = of_server(server, percent), recording.lateness.percentile(percent)
            measured = recording.latency.percentile(percent)
            if not served * (1 - share) <= measured <= served * (1 + share) + late:
                off.append(f"p{percent}: {measured} ns, served within {served}, begun {late} late")
        if not off:
            break
    if off and quiet < 3:
        pytest.skip("others had this machine's processors in most of the runs: nothing can be measured here now")
    assert off == []


def stalled_once(load: Load) -> tuple[Recording, FakeServer]:
    def behave(asked: Asked) -> Answer:
        if asked.number == 250:
            server.stall(1.0)
        return Answer()

    with FakeServer(behave) as server:
        return generate(server.address, "rest", [request()], load), server


def test_a_stall_of_one_second_shows_in_the_open_loop() -> None:
    """At 250 a second for 3 s, a third of the requests is due within the stall, and waits up to a second."""
    recording, server = stalled_once(Load(Open(Constant(250), 1000), duration_s=3.0))
    assert recording.errors == {}
    assert recording.answers == len(server.asked) == 750
    assert recording.latency.percentile(99) > 800e6
    assert recording.latency.percentile(75) > 200e6


def test_a_stall_of_one_second_hides_in_the_closed_loop() -> None:
    """Two requests of many wait; the others are not even sent."""
    recording, _ = stalled_once(few(2000, concurrency=2))
    assert recording.errors == {}
    assert recording.answers == 2000
    assert recording.latency.percentile(99) < 500e6
    assert recording.latency.max_ns > 800e6


def test_waiting_for_a_connection_counts() -> None:
    """Two connections at 20 ms each answer 100 a second; 200 a second are due: the last one waits about half the time."""
    with FakeServer(lambda asked: Answer(delay_s=0.02)) as server:
        recording = generate(server.address, "rest", [request()], Load(Open(Constant(200), 2), duration_s=1.0, drain_s=1.0))
    assert server.connections == recording.connections == 2
    assert recording.answers + recording.failed == 200
    assert set(recording.errors) == {"not sent"}
    assert recording.latency.max_ns > 350e6
    assert recording.lateness.max_ns > 350e6
    assert recording.waited > 100
    assert any("waiting for a free connection" in text for text in recording.warnings)


@pytest.mark.parametrize("wire", ["rest", "grpc"])
def test_processes_share_the_load_and_their_counts_are_one(wire: Wire) -> None:
    with FakeServer(lambda asked: Answer(status=500 if asked.number % 10 == 9 else 200), server_protocol(wire)) as server:
        requests = [request(wire, name="a"), request(wire, name="b")]
        recording = generate(server.address, wire, requests, few(100, concurrency=7, processes=3))
    assert len(server.asked) == 100
    assert recording.answers == recording.answered == 90
    assert {kind: errors.count for kind, errors in recording.errors.items()} == {"http 5xx": 10}
    assert set(recording.requests) == {"a", "b"}
    assert sum(second.answers for second in recording.timeline.values()) == 90
    assert sum(second.errors for second in recording.timeline.values()) == 10
    assert recording.connections == 7
    assert recording.client_cpu_s > 0
    assert recording.sent_bytes >= 100 * len(b"question")
    assert recording.received_bytes > 100 * 20


def test_the_warm_up_is_not_counted_and_phases_are_told_in_order() -> None:
    told: list[Progress] = []
    with FakeServer(lambda asked: Answer(delay_s=0.01)) as server:
        load = Load(Closed(4), duration_s=0.6, warm_up_s=3.0)
        recording = generate(server.address, "rest", [request()], load, told.append)
    phases = list(dict.fromkeys(progress.phase for progress in told))
    assert [phase for phase in phases if phase != "draining"] == ["starting", "warming up", "measuring"]
    assert recording.answers < len(server.asked) - 10
    assert 0.59 < recording.wall_s < 3.0
    assert min(recording.timeline) == 0
    measured = [progress for progress in told if progress.phase == "measuring"]
    assert measured[-1].p50_ms > 5
    assert measured[-1].duration_s == 0.6


def test_recorded_arrivals_end_the_run() -> None:
    with FakeServer() as server:
        arrivals = Recorded(tuple(number / 100 for number in range(30)))
        recording = generate(server.address, "rest", [request()], Load(Open(arrivals), duration_s=60, processes=2))
    assert recording.answers == len(server.asked) == 30
    assert recording.wall_s < 30
    assert not recording.interrupted


def test_an_answer_that_does_not_come_until_the_end_is_an_error() -> None:
    with FakeServer(lambda asked: Answer(silent=asked.number == 3)) as server:
        recording = generate(server.address, "rest", [request()], Load(Closed(2), duration_s=1.0, drain_s=2.0))
    assert {kind: errors.count for kind, errors in recording.errors.items()} == {"not answered": 1}


def test_stop_ends_the_run_early_and_gives_what_was_measured() -> None:
    stop = threading.Event()

    def told(progress: Progress) -> None:
        if progress.phase == "measuring" and progress.answers:
            stop.set()

    with FakeServer(lambda asked: Answer(delay_s=0.005)) as server:
        recording = generate(server.address, "rest", [request()], Load(Closed(4), duration_s=60), told, stop)
    assert recording.interrupted
    assert recording.answers > 0
    assert 0 < recording.wall_s < 30


PROGRAM = """
    import sys
    from serving.bench.fleet import generate
    from serving.bench.load import Closed, Load
    from serving.bench.request import Request
    def told(progress):
        print(progress.phase, progress.answers, flush=True)
    made = generate(sys.argv[1], "rest", [Request("r", "/", (), b"x")], Load(Closed(2), duration_s=60, processes=2), told)
    print("RECORDING", made.interrupted, made.answers, made.wall_s < 30)
"""


@pytest.fixture
def generating() -> Iterator[subprocess.Popen[str]]:
    """A program that generates, in its measurement."""
    with FakeServer(lambda asked: Answer(delay_s=0.005)) as server:
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM), server.address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("measuring") and line.split()[1] != "0":
                    break
            try:
                yield process
            finally:
                process.kill()


def test_ctrl_c_gives_what_was_measured(generating: subprocess.Popen[str]) -> None:
    generating.send_signal(signal.SIGINT)
    output, _ = generating.communicate(timeout=60)
    words = output.split("RECORDING ")[1].split()
    assert words[0] == "True"
    assert int(words[1]) > 0
    assert words[2] == "True"


def test_the_processes_end_with_the_one_that_started_them(generating: subprocess.Popen[str]) -> None:
    children = [int(pid) for pid in Path(f"/proc/{generating.pid}/task/{generating.pid}/children").read_text().split()]
    assert len(children) == 2
    generating.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while any(alive(pid) for pid in children):
        assert time.monotonic() < end, "a process outlived its parent"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def raising(body: bytes) -> str | None:
    raise RuntimeError("this check has a bug")


def test_a_process_that_fails_fails_the_run() -> None:
    with FakeServer() as server, pytest.raises(Internal, match="this check has a bug"):
        generate(server.address, "rest", [request(check=raising)], few(3))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost with its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", f"{path}.key", "-out", str(path)], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.key").read_bytes())
    return path


@pytest.mark.parametrize("wire", ["rest", "grpc"])
def test_tls(wire: Wire, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2" if wire == "grpc" else "http/1.1"])
    large = b"x" * 3_000_000
    with FakeServer(lambda asked: Answer(body=asked.body[-1000:] * 500), server_protocol(wire), tls=context) as server:
        requests = [request(wire), request(wire, large, "large")]
        trusted = generate(server.address, wire, requests, few(30, concurrency=3), tls=Tls(ca_file=str(certificate)))
        refused = generate(server.address, wire, requests, few(2), tls=Tls())
        unverified = generate(server.address, wire, requests, few(2), tls=Tls(verify=False))
    assert trusted.errors == {}
    assert trusted.answers == 30
    assert {kind: errors.count for kind, errors in refused.errors.items()} == {"tls": 2}
    assert "CERTIFICATE_VERIFY_FAILED" in refused.errors["tls"].texts[0]
    assert unverified.answers == 2


@pytest.mark.parametrize("wire", ["rest", "grpc"])
def test_unix_sockets(wire: Wire, tmp_path: Path) -> None:
    with FakeServer(protocol=server_protocol(wire), path=str(tmp_path / "s.sock")) as server:
        recording = generate(server.address, wire, [request(wire)], few(20, concurrency=2))
    assert recording.errors == {}
    assert recording.answers == 20


def test_orders_that_cannot_be_carried_out() -> None:
    with pytest.raises(InvalidArgument, match="no request"):
        generate("127.0.0.1:1", "rest", [], few(1))
    with pytest.raises(InvalidArgument, match="expected host:port"):
        generate("localhost", "rest", [request()], few(1))
    with pytest.raises(InvalidArgument, match="expected at least 16 connections"):
        generate("127.0.0.1:1", "grpc", [request("grpc")], Load(Closed(64), connections=4, streams=4))
    with pytest.raises(Unavailable, match="cannot find host"):
        generate("no.such.host.invalid:80", "rest", [request()], few(1))


def test_nothing_is_left_open() -> None:
    with FakeServer() as server:
        generate(server.address, "rest", [request()], few(1))
        before = len(os.listdir("/proc/self/fd"))
        generate(server.address, "rest", [request()], few(1, processes=1))
        assert len(os.listdir("/proc/self/fd")) <= before
