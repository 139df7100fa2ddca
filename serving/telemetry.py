"""Logs: JSON lines in rotating files for the engine's processes, plain lines on stderr for people. No line per request.

A process calls one of the two functions once; every module logs to `logging.getLogger("serving....")` and knows no more.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

ROOT = "serving"
MAX_BYTES = 10 << 20
BACKUPS = 3
KEPT_FILES = 64
"""Log files that stay in the directory when an engine starts; replicas come and go, and each has its own."""


def log_to_file(directory: Path, process: str, level: int = logging.INFO, loggers: Sequence[str] = (ROOT,)) -> None:
    """Send the log of this process to `directory/<process>.jsonl`, rotated at 10 MB, three old files kept.

    `loggers`: names whose records are taken, with all below them; what went elsewhere before does not any more.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = RotatingFileHandler(directory / f"{process}.jsonl", maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", delay=True)
    handler.setFormatter(_JsonLines(process))
    _install(handler, level, loggers)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send the log of this process to stderr as plain lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    _install(handler, level, (ROOT,))


def switch(*, info: bool = True, warning: bool = True, error: bool = True, verbose: bool = False, iso_times: bool = False) -> None:
    """Say which records of this process are kept from now on, and how their times are written in files."""
    logger = logging.getLogger(ROOT)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    _SWITCHES.kept = {logging.DEBUG: verbose, logging.INFO: info, logging.WARNING: warning, logging.ERROR: error}
    for handler in logger.handlers:
        handler.addFilter(_SWITCHES)
        if isinstance(handler.formatter, _JsonLines):
            handler.formatter.iso_times = iso_times


def prune(directory: Path) -> None:
    """Remove the oldest log files beyond KEPT_FILES."""
    files = sorted(directory.glob("*.jsonl*"), key=lambda f: f.stat().st_mtime, reverse=True)
    for file in files[KEPT_FILES:]:
        file.unlink(missing_ok=True)


def _install(handler: logging.Handler, level: int, loggers: Sequence[str]) -> None:
    for name in loggers:
        logger = logging.getLogger(name)
        for old in logger.handlers[:]:
            logger.removeHandler(old)
            old.close()
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False


class _Switches(logging.Filter):
    """Lets records through by their level; CRITICAL ones always."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = {logging.DEBUG: True, logging.INFO: True, logging.WARNING: True, logging.ERROR: True}

    def filter(self, record: logging.LogRecord) -> bool:
        return self.kept.get(record.levelno, True)


_SWITCHES = _Switches()


class _JsonLines(logging.Formatter):
    """One JSON object per line: time (seconds since 1970, or ISO 8601), level, process, logger, message; error where there is one."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process
        self.iso_times = False

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat() if self.iso_times else round(record.created, 3),
            "level": record.levelname,
            "process": self._process,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1]:
            line["error"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)
