"""FastAPI on uvicorn with uvloop and httptools, one process, no batching."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.peers.port import answers_ok, free_ports
from benchmarks.process import Running, start

NAME = "fastapi"


def launch(scratch: Path) -> Running:
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "uvicorn", "benchmarks.peers.fastapi_app:app", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    http = f"127.0.0.1:{port}"
    return start(
        NAME, argv, scratch / "log", cwd=Path(__file__).parents[2], http=http, ready=lambda running: answers_ok(running.http, "/ready")
    )
