"""A real replica in this process, a raw socket as its gateway."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

import numpy as np
import orjson
import pytest

from serving.errors import AlreadyExists, Code, Internal, InvalidArgument, ModelFailed, NotFound, ServingError, Unavailable
from serving.hosting import BatchPolicy, HostPlan, VersionPlan
from serving.inference import Layout, TensorLayout
from serving.replica.host import ReplicaHost
from serving.tensor import DType, Signature, TensorSpec
from serving.wire import frame as wire
from tests.replica.conftest import SIGNATURE, Start
from tests.replica.peer import Peer, requests, vector

DOUBLE = "class Model:\n    def predict(self, inputs):\n        return {'y': inputs['x'] * 2}\n"
GATED = """
import threading
entered, leave = threading.Event(), threading.Event()
class Model:
    def warm_up(self):
        pass
    def predict(self, inputs):
        entered.set()
        assert leave.wait(60)
        return {'y': inputs['x']}
"""
MODES = pytest.mark.parametrize("execution", ["inline", "thread"])
ONE = np.ones((1, 4), np.float32).tobytes()


def gate(host: ReplicaHost) -> tuple[Event, Event]:
    """Return (entered, leave) of the GATED model."""
    space = host._models["m/1"].predict.__func__.__globals__  # type: ignore[attr-defined]
    return space["entered"], space["leave"]


@MODES
def test_each_answer_belongs_to_its_request(start: Start, execution: str) -> None:
    host = start(DOUBLE, execution=execution)
    with Peer(host.address["uds"]) as one, Peer(host.address["uds"]) as two:
        sent = {}
        for peer in (one, two):
            for rows in (1, 2, 3):
                peer.define(rows, "m/1", vector(rows))
        for key in range(300):
            rows = 1 + key % 3
            sent[key] = np.full((rows, 4), key, np.float32)
            one.request(rows, {key: sent[key].tobytes()})
            two.request(rows, {key: (-sent[key]).tobytes()})
        for sign, peer in ((1, one), (-1, two)):
            for reply in peer.wait(*sent):
                assert reply.code == Code.OK
                np.testing.assert_array_equal(reply.array(), sign * 2 * sent[reply.key])
                assert 1 <= reply.batch_rows <= 8
    counts = host.statistics()["m/1"]
    assert (counts["requests"], counts["answered"], counts["open"], counts["failed"]) == (600, 600, 0, 0)
    assert counts["batches"] < 600


def test_the_replica_says_what_it_holds(start: Start) -> None:
    host = start(DOUBLE, DOUBLE)
    with Peer(host.address["uds"]) as peer:
        versions = peer.hello.pop("versions")
        assert peer.hello.pop("arena")["bytes"] == 1 << 28
        assert peer.hello == {"protocol": 1, "replica": "r0"}
        assert [(v["model"], v["version"], v["platform"]) for v in versions] == [("m", "1", "python"), ("m", "2", "python")]
        assert Signature.from_json(versions[0]["signature"]) == SIGNATURE == host.signatures["m/1"]
    assert stat.S_IMODE(os.stat(host.address["uds"]).st_mode) == 0o600


def test_versions_of_one_replica_answer_for_themselves(start: Start) -> None:
    host = start(DOUBLE, DOUBLE.replace("* 2", "* 3"))
    with Peer(host.address["uds"]) as peer:
        peer.define(0, "m/1", vector(1))
        peer.define(1, "m/2", vector(1))
        peer.send(requests([(key, key % 2, ONE) for key in range(20)]))
        assert [r.array()[0, 0] for r in peer.wait(*range(20))] == [2.0, 3.0] * 10


def test_requests_of_one_frame_are_one_batch_and_one_answer_frame(start: Start) -> None:
    host = start(DOUBLE, execution="inline")
    with Peer(host.address["uds"]) as peer:
        peer.define(0, "m/1", vector(1))
        peer.send(requests([(key, 0, ONE) for key in range(8)]))
        replies = peer.wait(*range(8))
        assert {r.batch_rows for r in replies} == {8}
        assert peer.frames.count(wire.RESPONSES) == 1
        assert peer.frames.count(wire.DEFINE) == 1
        assert all(r.queue_us < 1e6 and r.compute_us < 1e6 for r in replies)
        peer.request(0, {9: ONE})
        peer.wait(9)
        assert peer.frames.count(wire.DEFINE) == 1  # the layout is known by now


@MODES
def test_mixed_shapes_share_a_frame_and_never_a_batch(start: Start, execution: str) -> None:
    signature = Signature((TensorSpec("x", DType.FP32, (-1,)),), (TensorSpec("y", DType.FP32, (-1,)),), 8)
    host = start(DOUBLE, signature=signature, execution=execution)
    with Peer(host.address["uds"]) as peer:
        sent = {}
        for width in range(1, 6):
            peer.define(width, "m/1", vector(1, width))
        for key in range(60):
            width = 1 + key * 7 % 5
            sent[key] = np.full((1, width), key, np.float32)
        peer.send(requests([(key, x.shape[1], x.tobytes()) for key, x in sent.items()]))
        for reply in peer.wait(*sent):
            np.testing.assert_array_equal(reply.array(), 2 * sent[reply.key])


def test_more_layouts_than_ids_are_defined_again_and_stay_right(start: Start) -> None:
    signature = Signature((TensorSpec("x", DType.FP32, (-1,)),), (TensorSpec("y", DType.FP32, (-1,)),), 8)
    host = start(DOUBLE, signature=signature, execution="inline")
    count = wire.MAX_LAYOUTS + 100
    with Peer(host.address["uds"]) as peer:
        for width in range(1, count + 1):
            peer.define(width % wire.MAX_LAYOUTS, "m/1", vector(1, width))
            peer.request(width % wire.MAX_LAYOUTS, {width: bytes(4 * width)})
        assert all(reply.array().shape == (1, reply.key) for reply in peer.wait(*range(1, count + 1)))


def test_errors_of_one_request_leave_the_others_alone(start: Start) -> None:
    host = start(DOUBLE, execution="inline")
    with Peer(host.address["uds"]) as peer:
        peer.define(0, "m/1", vector(1))
        peer.define(1, "m/1", vector(1, 5))
        peer.define(2, "gone/7", vector(1))
        peer.define(3, "m/1", vector(9))
        peer.send(requests([(1, 0, ONE), (2, 1, bytes(20)), (3, 2, ONE), (4, 3, bytes(144)), (5, 0, b"short"), (6, 0, ONE)]))
        replies = peer.wait(1, 2, 3, 4, 5, 6)
        assert [(r.code, r.message if r.code else "") for r in replies] == [
            (Code.OK, ""),
            (Code.INVALID_ARGUMENT, "unexpected shape for input 'x' for model 'm'. Expected [-1,4], got [1,5]"),
            (Code.NOT_FOUND, "Request for unknown model: 'gone/7' is not held by this replica"),
            (Code.INVALID_ARGUMENT, "inference request batch-size must be <= 8 for 'm'"),
            (Code.INVALID_ARGUMENT, "payload has 5 bytes, but its layout 16"),
            (Code.OK, ""),
        ]


def test_a_model_that_is_busy_leaves_the_replica_answering(start: Start) -> None:
    host = start(GATED)
    entered, leave = gate(host)
    with Peer(host.address["uds"]) as peer:
        peer.define(0, "m/1", vector(1))
        peer.request(0, {1: ONE})
        assert entered.wait(60)
        peer.request(0, {2: ONE}, timeout_us=1000)
        peer.request(0, {3: ONE}, budget_us=1000)
        peer.request(0, {4: ONE})
        peer.request(0, {5: ONE})
        peer.send(wire.encode_keys(wire.CANCEL, [4, 1, 77]))
        assert peer.ping(b'{"n":1}') == b'{"n":1}'
        assert [(r.code, r.message) for r in peer.wait(2, 3, 4)] == [
            (Code.QUEUE_TIMEOUT, "Request timeout expired"),
            (Code.DEADLINE_EXCEEDED, "Deadline Exceeded"),
            (Code.CANCELLED, "cancelled"),
        ]
        assert 5 not in peer.replies
        leave.set()
        assert [r.code for r in peer.wait(1, 5)] == [Code.CANCELLED, Code.OK]
        assert host.statistics()["m/1"]["open"] == 0


def test_requests_of_a_gateway_that_died_leave_the_queue(start: Start) -> None:
    host = start(GATED)
    entered, leave = gate(host)
    with Peer(host.address["uds"]) as living:
        living.define(0, "m/1", vector(1))
        living.request(0, {1: ONE})
        assert entered.wait(60)
        dying = Peer(host.address["uds"])
        dying.define(0, "m/1", vector(1))
        dying.send(requests([(key, 0, ONE) for key in range(100)]))
        dying.ping()
        assert host.statistics()["m/1"]["queued"] == 100
        dying.close()
        while host.statistics()["m/1"]["queued"]:
            living.ping()
        leave.set()
        assert living.wait(1)[0].code == Code.OK
        counts = host.statistics()["m/1"]
        assert (counts["cancelled"], counts["open"], counts["batches"]) == (100, 0, 1)


GARBAGE = {
    "not frames": b"GET / HTTP/1.1\r\n\r\n",
    "layout that is not defined": requests([(1, 5, ONE)]),
    "layout id out of range": requests([(1, 5000, ONE)]),
    "key that is in use": requests([(7, 0, ONE), (7, 0, ONE)]),
    "payload longer than its records": wire.encode(wire.REQUESTS, 1, wire.REQUEST.pack(1, 0, 0, 16, 0, 0, 0, 0), 20) + bytes(20),
    "payload shorter than its records": wire.encode(wire.REQUESTS, 1, wire.REQUEST.pack(1, 0, 0, 16, 0, 0, 0, 0), 9) + bytes(9),
    "layout that is not JSON": wire.encode_define(1, b"{"),
    "layout that is a list": wire.encode_define(1, b"[]"),
    "layout without tensors": wire.encode_define(1, b'{"m":"m/1"}'),
    "layout of text": wire.encode_define(1, b'{"m":"m/1","t":[["x","FP32",["a"],4]],"o":[],"p":[],"r":1}'),
    "layout of no datatype": wire.encode_define(1, b'{"m":"m/1","t":[["x","FP31",[1],4]],"o":[],"p":[],"r":1}'),
    "layout of fractions": wire.encode_define(1, b'{"m":"m/1","t":[["x","FP32",[1.5],4]],"o":[],"p":[],"r":1}'),
    "layout id too high": wire.encode_define(1024, orjson.dumps({"m": "m/1", **vector(1).to_json()})),
    "an answer": wire.encode(wire.RESPONSES, 0, b"", 0),
    "another protocol": wire.encode_json(wire.HELLO, b'{"protocol":2}'),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_closes_its_connection_and_no_other(start: Start, garbage: bytes) -> None:
    host = start(DOUBLE, execution="inline")
    with Peer(host.address["uds"]) as good, Peer(host.address["uds"]) as bad:
        for peer in (good, bad):
            peer.define(0, "m/1", vector(1))
        bad.send(garbage)
        assert bad.ended()
        good.request(0, {1: ONE})
        assert good.wait(1)[0].code == Code.OK


def test_a_gateway_says_hello_first(start: Start) -> None:
    host = start(DOUBLE)
    with Peer(host.address["uds"], greet=False) as peer:
        peer.define(0, "m/1", vector(1))
        assert peer.ended()


def test_a_gateway_that_does_not_read_is_not_read_either(start: Start) -> None:
    signature = Signature((TensorSpec("x", DType.FP32, (-1,)),), (TensorSpec("y", DType.FP32, (-1,)),), 8)
    host = start(DOUBLE, signature=signature, execution="inline")
    width = 1 << 18
    payload = bytes(4 * width)
    with Peer(host.address["uds"]) as peer, Peer(host.address["uds"]) as other:
        peer.define(0, "m/1", vector(1, width))
        peer.socket.settimeout(0.3)
        sent = 0
        try:
            while sent < 200:
                peer.request(0, {sent: payload})
                sent += 1
        except TimeoutError:
            pass
        assert sent < 40  # of 1 MB each: 8 MB of answers and what the kernel buffers
        other.define(0, "m/1", vector(1))
        other.request(0, {1: ONE})
        assert other.wait(1)[0].code == Code.OK


def test_large_tensors_go_both_ways(start: Start) -> None:
    signature = Signature((TensorSpec("x", DType.FP32, (-1,)),), (TensorSpec("y", DType.FP32, (-1,)),), 8)
    host = start(DOUBLE, signature=signature)
    sent = {key: np.full((1, 1 << 20), key, np.float32) for key in range(6)}
    with Peer(host.address["uds"]) as peer:
        peer.define(0, "m/1", vector(1, 1 << 20))
        peer.send(requests([(key, 0, x.tobytes()) for key, x in sent.items()]))
        for reply in peer.wait(*sent):
            np.testing.assert_array_equal(reply.array(), 2 * sent[reply.key])


def test_drain_answers_what_was_sent_and_takes_nothing_new(start: Start) -> None:
    host = start(GATED)
    entered, leave = gate(host)
    with Peer(host.address["uds"]) as peer:
        peer.define(0, "m/1", vector(1))
        peer.request(0, {1: ONE, 2: ONE})
        assert entered.wait(60)
        results: list[bool] = []
        draining = Thread(target=lambda: results.append(host.drain(10)))
        draining.start()
        peer.read(wire.DRAIN)
        assert not Path(host.address["uds"]).exists()
        peer.request(0, {3: ONE})  # it was on its way
        leave.set()
        assert [r.code for r in peer.wait(1, 2, 3)] == [Code.OK] * 3
        peer.close()
        draining.join(10)
    assert results == [True]
    with pytest.raises(Unavailable):
        host.healthy()


def test_a_drain_that_takes_too_long_gives_up(start: Start) -> None:
    host = start(GATED)
    entered, leave = gate(host)
    with Peer(host.address["uds"]) as peer:
        peer.define(0, "m/1", vector(1))
        peer.request(0, {1: ONE})
        assert entered.wait(60)
        assert host._in_loop(host._drain(0.05)) is False
        peer.read(wire.DRAIN)
        leave.set()
        assert peer.wait(1)[0].code == Code.OK
        host.stop()
        assert peer.ended()


def test_a_socket_left_by_a_dead_process_is_replaced_and_a_living_one_is_not(start: Start, tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "replica-r0.sock"))
    stale.close()
    host = start(DOUBLE)
    with Peer(host.address["uds"]) as peer:
        assert peer.ping() == b"{}"
    twin = ReplicaHost(host.plan, "r0", str(tmp_path))
    with pytest.raises(AlreadyExists, match="another process listens on"):
        twin.start()
    with Peer(host.address["uds"]) as peer:
        assert peer.ping() == b"{}"


def test_a_replica_listens_on_tcp_when_told_to(start: Start) -> None:
    host = start(DOUBLE, host={"tcp_host": "127.0.0.1"})
    name, port = host.address["tcp"].split(":")
    with socket.create_connection((name, int(port)), timeout=60) as sock:
        (hello,) = wire.FrameReader().feed(sock.recv(1 << 16))
        assert hello.kind == wire.HELLO


def test_policies_change_in_place_and_nothing_else_does(start: Start) -> None:
    host = start(DOUBLE)
    (version,) = host.plan.versions
    smaller = replace(version, batching=BatchPolicy(max_batch_size=2, execution="inline"))
    host.reconfigure(HostPlan((smaller,), 1))
    with Peer(host.address["uds"]) as peer:
        assert peer.hello["versions"][0]["signature"]["max_batch_size"] == 2
        peer.define(0, "m/1", vector(3))
        peer.define(1, "m/1", vector(2))
        peer.request(0, {1: ONE * 3})
        peer.request(1, {2: ONE * 2})
        assert [r.code for r in peer.wait(1, 2)] == [Code.INVALID_ARGUMENT, Code.OK]
    for other in (replace(version, artefact="/else"), replace(version, version="2"), replace(version, batching=BatchPolicy())):
        with pytest.raises(InvalidArgument):
            host.reconfigure(HostPlan((other,), 2))


def test_a_model_that_hangs_is_told_once_its_callers_have_an_error_and_gateways_are_sent_away(start: Start) -> None:
    told: SimpleQueue[str] = SimpleQueue()
    host = start(GATED, max_batch_size=1, predict_timeout_s=0.2, host={"hung": told.put})
    entered, leave = gate(host)
    host.healthy()
    with Peer(host.address["uds"]) as peer:
        peer.define(0, "m/1", vector(1))
        peer.request(0, {1: ONE, 2: ONE})
        assert entered.wait(60)
        assert peer.wait(1)[0].code is Code.MODEL_FAILED
        reason = told.get(timeout=60)
        assert reason == "model 'm' has not answered for 0.2 s (predict_timeout_s); its replica is replaced"
        with pytest.raises(Unavailable, match="predict_timeout_s"):
            host.healthy()
        assert not Path(host.address["uds"]).exists()
        leave.set()
        assert peer.wait(2)[0].code is Code.OK
    assert told.empty()


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("class Other: pass", NotFound, r"'m/1': no class 'Model' in .*, it has Other"),
        ("import nothing_of_this_name", ModelFailed, "'m/1': import of .* raised ModuleNotFoundError: No module named"),
        ("class Model: pass", InvalidArgument, r"class Model in .* has no method predict"),
        ("class Model:\n def load(self): 1/0\n def predict(self, x): pass", ModelFailed, r"'m/1': load\(\) of .* raised ZeroDivisionError"),
        ("class Model:\n def predict(self, x): return 5", ModelFailed, "returned a int, expected a dict"),
        ("class Model:\n def predict(self, x): 1/0", Internal, "warm-up with zeros raised ZeroDivisionError"),
        ("class Model:\n def predict(self, x):\n  x['x'] += 1", Internal, "read-only"),
        ("class Model:\n def predict(self, x):\n  import sys; sys.exit(3)", ModelFailed, "SystemExit: 3"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why_and_leaves_nothing(
    start: Start, tmp_path: Path, source: str, error: type[ServingError], text: str
) -> None:
    with pytest.raises(error, match=text):
        start(source)
    assert not list(tmp_path.glob("*.sock"))


def test_zeros_that_a_model_with_open_dimensions_cannot_take_are_no_reason_not_to_start(start: Start) -> None:
    signature = Signature((TensorSpec("x", DType.FP32, (-1,)),), (TensorSpec("y", DType.FP32, ()),), 8)
    host = start("class Model:\n    def predict(self, inputs):\n        return {'y': inputs['x'][:, 3]}\n", signature=signature)
    with Peer(host.address["uds"]) as peer:
        peer.define(0, "m/1", vector(1))
        peer.request(0, {1: np.arange(4, dtype=np.float32).tobytes()})
        assert peer.wait(1)[0].array()[0] == 3.0


def test_text_goes_in_and_out(start: Start) -> None:
    signature = Signature((TensorSpec("t", DType.BYTES, ()),), (TensorSpec("u", DType.BYTES, ()),), 8)
    source = (
        "import numpy as np\nclass Model:\n    def predict(self, i):\n        return {'u': np.array([t.upper() for t in i['t']], object)}\n"
    )
    host = start(source, signature=signature)
    with Peer(host.address["uds"]) as peer:
        for key, text in enumerate([b"one", b"", b"three"]):
            data = len(text).to_bytes(4, "little") + text
            peer.define(key, "m/1", Layout((TensorLayout("t", DType.BYTES, (1,), len(data)),)))
            peer.request(key, {key: data})
        assert [r.payload[4:] for r in peer.wait(0, 1, 2)] == [b"ONE", b"", b"THREE"]


def test_a_path_that_is_too_long_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(DOUBLE)
    plan = HostPlan((VersionPlan("m", "1", "python", str(path), "Model", signature=SIGNATURE, batching=BatchPolicy(8)),))
    with pytest.raises(InvalidArgument, match="longer than the 107 bytes"):
        ReplicaHost(plan, "r" * 120, str(tmp_path)).start()
    with pytest.raises(InvalidArgument, match="no version"):
        ReplicaHost(HostPlan(()), "r", str(tmp_path)).start()
