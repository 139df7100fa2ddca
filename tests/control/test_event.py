"""The chain of events: what was recorded cannot be changed without showing."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from serving.control.event import GENESIS, Event, Recorded, chained, verify


def record(count: int) -> list[Recorded]:
    events: list[Recorded] = []
    for n in range(count):
        event = Event("apply", f"change {n}", "mlp", str(n), "ann", "because", {"x": n}, {"x": n + 1}, n)
        events.append(chained(event, n + 1, 1000.0 + n, events[-1].hash if events else GENESIS))
    return events


def test_an_empty_record_is_intact() -> None:
    assert verify([]).to_json() == {"events": 0, "head": GENESIS, "problem": "", "intact": True}


def test_a_record_is_intact_and_its_head_is_the_last_hash() -> None:
    events = record(3)
    found = verify(events)
    assert (found.events, found.head, found.problem) == (3, events[-1].hash, "")


EDITS = ["kind", "what", "model", "version", "who", "why", "before", "after", "revision"]


@given(st.integers(1, 8), st.data())
def test_an_edit_of_any_field_of_any_event_shows_where_it_is(count: int, data: st.DataObject) -> None:
    events = record(count)
    at = data.draw(st.integers(0, count - 1))
    field = data.draw(st.sampled_from([*EDITS, "at"]))
    e = events[at]
    if field == "at":
        events[at] = replace(e, at=e.at + 0.001)
    else:
        value = getattr(e.event, field)
        other = data.draw((st.integers() if field == "revision" else st.text(max_size=5)).filter(lambda v: v != value))
        events[at] = replace(e, event=replace(e.event, **{field: other}))
    found = verify(events)
    assert found.problem.startswith(f"event {at + 1} ")
    assert "was changed after it was recorded" in found.problem
    assert found.events == at


@given(st.integers(2, 8), st.data())
def test_an_event_taken_out_shows_unless_it_was_the_last(count: int, data: st.DataObject) -> None:
    events = record(count)
    at = data.draw(st.integers(0, count - 2))
    assert verify(events[:at] + events[at + 1 :]).problem == f"event {at + 1} is missing: number {at + 2} comes after {at}"


def test_events_taken_from_the_end_show_against_a_head_that_was_noted() -> None:
    events = record(4)
    assert verify(events[:3]).problem == ""
    assert verify(events, head=events[2].hash).problem == ""
    assert "no event has the hash" in verify(events[:2], head=events[2].hash).problem


def test_a_rewritten_event_with_a_fitting_hash_breaks_the_next_link() -> None:
    events = record(3)
    events[1] = chained(replace(events[1].event, who="eve"), 2, events[1].at, events[0].hash)
    assert verify(events).problem == "event 3 does not follow event 2: its previous hash is another"
