"""Recordings, the tape that they come from, and the counting between."""

from __future__ import annotations

import os
import pickle

from hypothesis import given
from hypothesis import strategies as st

from serving.bench.arrivals import Constant
from serving.bench.counting import Counting
from serving.bench.histogram import Histogram
from serving.bench.load import Closed, Load, Open
from serving.bench.recording import TEXTS, Recording, Tally
from serving.bench.saturation import Machine, warnings
from serving.bench.tape import AFTER, End, Failures, Kind, Record, State, TapeReader, TapeWriter
from tests.bench.drive import request

MS = 1_000_000


def recorded(*latencies_ms: int, second: int = 0, name: str = "a") -> Recording:
    made = Recording(wall_s=1.0, client_cpu_s=0.5, client_busy=0.5, processes=1, connections=4, answered=len(latencies_ms))
    made.tally(name).latency.record_many([ms * MS for ms in latencies_ms])
    made.second(second).answers = len(latencies_ms)
    made.second(second).add(Histogram.of([ms * MS for ms in latencies_ms]))
    return made


def test_repetitions_follow_each_other() -> None:
    total = recorded(1, 2) + recorded(3) + recorded(4, name="b")
    assert (total.answers, total.answered, total.wall_s, total.throughput_rps) == (4, 4, 3.0, 4 / 3)
    assert [(number, second.answers) for number, second in sorted(total.timeline.items())] == [(0, 2), (1, 1), (2, 1)]
    assert (total.client_cpu_s, total.client_busy, total.processes, total.connections) == (1.5, 0.5, 1, 4)
    assert total.requests["a"].answers == 3


def test_processes_stand_beside_each_other() -> None:
    total = recorded(1, 2).beside(recorded(3))
    assert (total.answers, total.wall_s, total.processes, total.connections) == (3, 1.0, 2, 8)
    assert total.timeline[0].answers == 3
    assert total.timeline[0].latency == Histogram.of([1 * MS, 2 * MS, 3 * MS])


def test_adding_changes_neither_side() -> None:
    one, other = recorded(1), recorded(2)
    one.tally("a").fail("timeout", "t")
    _ = one + other, one.beside(other)
    assert (one.answers, other.answers, other.failed, one.timeline[0].answers) == (1, 1, 0, 1)


def test_errors_keep_their_first_texts() -> None:
    tally = Tally()
    for number in range(10):
        tally.fail("http 5xx", f"text {number % 7}", times=2)
    assert tally.errors["http 5xx"].count == 20
    assert tally.errors["http 5xx"].texts == [f"text {number}" for number in range(TEXTS)]
    total = Tally()
    total += tally
    total.fail("timeout")
    assert total.failed == 21
    assert tally.failed == 20


@given(st.lists(st.tuples(st.sampled_from([Kind.WARM, Kind.GOOD, Kind.LATE]), st.integers(0, 3), st.integers(0, 2**40)), max_size=50))
def test_a_tape_read_in_any_pieces_gives_what_was_written(samples: list[tuple[Kind, int, int]]) -> None:
    reading, writing = os.pipe()
    try:
        tape = TapeWriter(writing)
        for kind, number, value in samples:
            tape.sink(kind, number)(value)
        tape.flush(7)
        tape.state(State("measuring", 1, 2.0, 3))
        data = os.read(reading, 1 << 16)
    finally:
        os.close(reading)
        os.close(writing)
    reader = TapeReader()
    records = [record for at in range(len(data)) for record in reader.feed(data[at : at + 1])]
    assert pickle.loads(records.pop().payload) == State("measuring", 1, 2.0, 3)
    assert sorted((r.kind, r.request, int(v)) for r in records for v in r.values) == sorted(samples)
    assert {record.second for record in records} <= {7}


def values(kind: Kind, number: int, second: int, *latencies: int) -> Record:
    packed = b"".join(value.to_bytes(8, "little") for value in latencies)
    return Record(kind, number, second, packed)


def test_counting_tells_the_phases_apart() -> None:
    counting = Counting([request(name="a"), request(name="b")], 2)
    counting.take(0, values(Kind.WARM, 0, AFTER, 1, 1, 1))
    counting.take(0, values(Kind.EARLY, 0, 0, 900))
    counting.take(0, values(Kind.GOOD, 0, 0, 100, 200))
    counting.take(1, values(Kind.GOOD, 1, 1, 300))
    counting.take(1, values(Kind.GOOD, 1, AFTER, 4000))
    counting.take(1, values(Kind.LATE, 0, 1, 50))
    counting.take(1, values(Kind.LATE, 0, AFTER, 60))
    for phase, second in ((Kind.WARM, AFTER), (Kind.EARLY, 0), (Kind.GOOD, 1), (Kind.GOOD, AFTER)):
        counting.take(0, Record(Kind.FAILED, 1, second, b""), Failures(phase, "timeout", "no answer", 2))
    for source, (began, ended, cpu_s) in enumerate(((10**9, 3 * 10**9, 1.0), (10**9 + 5, 3 * 10**9 + 10, 1.9))):
        counting.take(source, Record(Kind.END, 0, 0, b""), End(began, ended, cpu_s, 2, 1, 100, 3, False, ("w",)))
    counting.fold(1.0)
    made = counting.recording()
    assert {name: (tally.answers, tally.failed) for name, tally in made.requests.items()} == {"a": (2, 0), "b": (2, 4)}
    assert made.answered == 4  # one of them had begun in the warm-up; the one that came after the end is not among them
    assert {number: (second.answers, second.errors, second.latency.count) for number, second in made.timeline.items()} == {
        0: (3, 2, 3),
        1: (1, 2, 1),
    }
    assert made.lateness.count == 1
    assert (made.wall_s, made.client_cpu_s, made.connections, made.reconnects, made.waited) == (2.00000001, 2.9, 4, 2, 6)
    assert made.client_busy == 1.9 / ((2 * 10**9 + 5) / 1e9)
    assert made.warnings == ["w"]


def test_doubts_about_the_generator_are_said() -> None:
    load = Load(Open(Constant(100)))
    made = recorded(1, 2, 3)
    assert warnings(made, load, Machine()) == []
    made.client_busy = 0.97
    made.lateness.record(20 * MS, 100)
    made.waited = 0
    assert [text.split(":")[0] for text in warnings(made, load, Machine())] == [
        "the generator used 97% of a core in its busiest process",
        "requests began up to 20.0 ms late (p99)",
    ]
    assert "the generator was slow" in warnings(made, load, Machine())[1]
    made.waited = 50
    assert "waiting for a free connection" in warnings(made, load, Machine())[1]
    assert len(warnings(made, Load(Closed(1)), Machine())) == 1
