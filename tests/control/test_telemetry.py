"""The log of a process: JSON lines, in its own file, in bounded space."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import telemetry

NAME = "serving-test"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[logging.Logger]:
    telemetry.log_to_file(tmp_path / "logs", "gateway-a", loggers=(NAME,))
    logger = logging.getLogger(NAME)
    yield logger
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()


def test_each_record_is_one_json_object(log: logging.Logger, tmp_path: Path) -> None:
    log.info("slot %d", 3)
    try:
        raise ValueError("no\nway")
    except ValueError:
        log.exception("tick")
    lines = [json.loads(line) for line in (tmp_path / "logs" / "gateway-a.jsonl").read_text().splitlines()]
    assert [(r["level"], r["process"], r["message"]) for r in lines] == [("INFO", "gateway-a", "slot 3"), ("ERROR", "gateway-a", "tick")]
    assert lines[1]["error"].rstrip().endswith("ValueError: no\nway")


def test_a_second_setup_takes_the_place_of_the_first(log: logging.Logger, tmp_path: Path) -> None:
    telemetry.log_to_file(tmp_path / "logs", "gateway-b", loggers=(NAME,))
    log.info("here")
    assert [p.name for p in (tmp_path / "logs").iterdir()] == ["gateway-b.jsonl"]


def test_the_oldest_files_go_when_there_are_too_many(tmp_path: Path) -> None:
    for age in range(telemetry.KEPT_FILES + 5):
        file = tmp_path / f"replica-{age}.jsonl"
        file.touch()
        os.utime(file, (1000 - age, 1000 - age))
    telemetry.prune(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {f"replica-{age}.jsonl" for age in range(telemetry.KEPT_FILES)}
