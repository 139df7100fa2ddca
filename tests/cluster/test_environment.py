"""The environment of an engine, and what a worker that Ray starts makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.cluster import environment, worker
from serving.cluster.boot import TAG, Boot

BOOT = Boot("127.0.0.1", 8000, 8001, 8002, 8003, "/state", "/tmp/serving-x", "", "abc", 0.0)


def test_a_boot_survives_its_file() -> None:
    assert Boot.from_json(BOOT.to_json()) == BOOT


def test_nothing_of_another_ray_reaches_ours() -> None:
    mine = environment.of(BOOT, {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_TOKEN": "theirs", "PATH": "/bin"})
    assert "RAY_ADDRESS" not in mine
    assert "RAY_AUTH_TOKEN" not in mine
    assert mine["PATH"] == "/bin"
    assert mine["RAY_AUTH_MODE"] == "token"
    assert mine["RAY_AUTH_TOKEN_PATH"] == "/tmp/serving-x/token"
    assert {mine[name] for name in environment.THREAD_VARIABLES} == {"1"}
    assert Path(mine[worker.ENTRY]).is_file()


def test_a_ray_of_others_is_found_with_their_variables() -> None:
    theirs = Boot(**{**json.loads(BOOT.to_json()), "ray_address": "10.0.0.1:6379"})
    assert environment.of(theirs, {"RAY_AUTH_TOKEN": "theirs"}) == {"RAY_AUTH_TOKEN": "theirs", TAG: "abc"}


class Became(Exception):
    pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the nursery is asked for; it always has a process."""
    orders: list[list[str]] = []

    def ask(arguments: list[str]) -> bool:
        orders.append(arguments)
        return True

    def execv(path: str, arguments: list[str]) -> None:
        raise Became(arguments[1:])

    monkeypatch.setattr(worker, "ask", ask)
    monkeypatch.setattr(worker.os, "execv", execv)
    monkeypatch.setenv(worker.ENTRY, "/ray/default_worker.py")
    monkeypatch.setenv("RAY_JOB_ID", worker.FIRST_JOB)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return orders


@pytest.mark.parametrize(
    "arguments",
    [
        ["--node-id=1", "--worker-id=2"],
        [worker.__file__, "--node-id=1", "--worker-id=2", "--language=PYTHON", "--serialized-runtime-env-context={}"],
        [worker.__file__, "--node-id=1", "--worker-id=2", '--serialized-runtime-env-context={"env_vars": {"X_FLAG": "1"}}'],
    ],
)
def test_a_worker_is_ordered_with_the_arguments_of_rays_own(asked: list[list[str]], arguments: list[str]) -> None:
    worker.main(arguments)
    assert asked == [["--node-id=1", "--worker-id=2"]]


@pytest.mark.parametrize(
    ("variables", "job"), [({"OMP_NUM_THREADS": "4"}, worker.FIRST_JOB), ({"PYTHONPATH": "/mine"}, worker.FIRST_JOB), ({}, "02000000")]
)
def test_what_has_to_be_known_before_torch_is_imported_needs_a_new_process(
    asked: list[list[str]], monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], job: str
) -> None:
    monkeypatch.setenv("RAY_JOB_ID", job)
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(Became, match="default_worker"):
        worker.main(["--node-id=1", f"--serialized-runtime-env-context={json.dumps({'env_vars': variables})}"])
    assert asked == []


def test_without_a_nursery_a_worker_starts_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(worker.SOCKET, str(tmp_path / "nobody"))
    assert worker.ask(["--node-id=1"]) is False
