"""AddressBook: which replicas a gateway believes in, whatever Serve leaves out for a moment."""

from __future__ import annotations

from serving.cluster.addresses import AddressBook
from serving.gateway.peers import PeerAddress

A = {"uds": "/run/a.sock", "tcp": "", "node": "n"}
B = {"uds": "/run/b.sock", "tcp": "", "node": "n"}
PEER_A, PEER_B = PeerAddress("a", "/run/a.sock", "", "n"), PeerAddress("b", "/run/b.sock", "", "n")


def book() -> AddressBook:
    made = AddressBook(grace_s=5.0)
    made.keep(["mlp/1"])
    return made


def test_what_is_told_is_known_at_once() -> None:
    told = book()
    told.tell("mlp/1", {"a": A, "b": B}, now=0.0)
    assert told.peers(0.0) == {"mlp/1": [PEER_A, PEER_B]}
    assert told.served() == ["mlp/1"]


def test_a_replica_that_is_left_out_stays_for_the_grace_time() -> None:
    told = book()
    told.tell("mlp/1", {"a": A, "b": B}, now=0.0)
    told.tell("mlp/1", {"b": B}, now=1.0)
    assert told.peers(5.9)["mlp/1"] == [PEER_A, PEER_B]
    assert told.peers(6.0)["mlp/1"] == [PEER_B]


def test_a_replica_that_comes_back_in_time_never_went() -> None:
    told = book()
    told.tell("mlp/1", {"a": A}, now=0.0)
    told.tell("mlp/1", {}, now=1.0)
    assert told.served() == []
    told.tell("mlp/1", {"a": A}, now=2.0)
    assert told.peers(99.0) == {"mlp/1": [PEER_A]}


def test_the_grace_time_counts_from_the_first_time_it_was_left_out() -> None:
    told = book()
    told.tell("mlp/1", {"a": A}, now=0.0)
    told.tell("mlp/1", {}, now=1.0)
    told.tell("mlp/1", {}, now=5.0)
    assert told.peers(6.0) == {"mlp/1": []}


def test_a_version_without_a_route_is_forgotten_and_not_listened_to() -> None:
    told = book()
    told.tell("mlp/1", {"a": A}, now=0.0)
    told.keep(["echo/1"])
    told.tell("mlp/1", {"b": B}, now=1.0)
    assert told.peers(1.0) == {"echo/1": []}


def test_a_replica_that_has_said_nothing_of_itself_is_not_an_address() -> None:
    told = book()
    told.tell("mlp/1", {"a": {}}, now=0.0)
    assert told.peers(0.0) == {"mlp/1": []}
