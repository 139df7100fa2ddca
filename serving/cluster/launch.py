"""launch: how a process becomes an engine (`python -m serving.cluster`), and whether it becomes one again when its Ray has ended.

All of an engine's processes live by Ray's raylet, GCS and agents: where one of these is killed or fails, all end within seconds.
What was accepted is in the state directory, so the same process goes on as a new engine that runs the last revision. The pid and the
lock on the state directory stay; whoever supervises it sees one process that is there.
"""

from __future__ import annotations

import os
import resource
import secrets
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from serving.cluster import environment
from serving.cluster.boot import RUN_PREFIX, Boot
from serving.errors import Unavailable

LIVED_S = 60.0
"""An engine that was ready for so long before its Ray ended has not failed of itself."""
QUICK_ENDS = 3
"""So many shorter lives in a row are followed by another; after one more it is for a person, or a supervisor, to say what then."""
PLACE_BYTES = 22
"""Of the path of a place for run directories: a socket's has 107, and Ray's plasma store has its 85 bytes below that."""
FEW_FILES, MANY_FILES = 256, 65536
"""An engine with one model and few clients needs nearly the one; it takes the other where it may: each client's connection is a file."""


def places() -> list[Path]:
    """Return where a run directory may lie, the best first."""
    return [Path("/tmp"), *(Path(p) for name in ("XDG_RUNTIME_DIR", "TMPDIR") if (p := os.environ.get(name)))]


def run_dir(state: Path, among: Iterable[Path]) -> Path:
    """Return a new private directory in the first place that takes it; note it whole or not at all in the state directory.

    Raises Unavailable where there is no place, OSError where it cannot be noted.
    """
    made = _make(among)
    draft = state / "run.draft"
    try:
        draft.write_text(str(made))
        draft.replace(state / "run")
    except OSError:
        made.rmdir()
        raise
    return made


def _make(among: Iterable[Path]) -> Path:
    problems = []
    for place in among:
        if len(os.fsencode(place)) > PLACE_BYTES:
            problems.append(f"{place}: the path is too long for sockets, at most {PLACE_BYTES} bytes")
            continue
        try:
            return Path(tempfile.mkdtemp(prefix=RUN_PREFIX, dir=place))
        except OSError as error:
            problems.append(f"{place}: {error.strerror}")
    raise Unavailable(f"no place for the engine's sockets ({'; '.join(problems)}); set XDG_RUNTIME_DIR to a directory that can be written")


def open_files(limits: tuple[int, int]) -> tuple[int, int]:
    """Return the limits of open files (soft, hard) with which an engine starts. Raises Unavailable where they are too low for one."""
    soft, hard = limits
    endless = resource.RLIM_INFINITY
    most = MANY_FILES if hard == endless else min(hard, MANY_FILES)
    if most < FEW_FILES:
        raise Unavailable(f"this process may open {most} files, an engine needs {FEW_FILES} (ulimit -n, or LimitNOFILE of a systemd unit)")
    return (soft if soft == endless or soft > most else most), hard


def tag() -> str:
    """Return a name for one start of an engine, which no other has."""
    return secrets.token_hex(8)


def become(boot: Boot) -> NoReturn:
    """Become the engine. Raises OSError where its run directory cannot be written."""
    file = Path(boot.run_dir) / "boot.json"
    file.write_text(boot.to_json())
    secret = environment.token_file(boot)
    secret.touch(0o600)
    secret.write_text(secrets.token_hex(32))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-m", "serving.cluster", str(file)], environment.of(boot, os.environ))


def next_life(boot: Boot, lived_s: float) -> Boot | None:
    """Return the boot of the engine that follows one whose Ray has ended, without a run directory; None where none should.

    lived_s: how long it was ready, 0.0 = it never was.
    """
    if boot.life == 1 and not lived_s:
        return None  # it could not even start
    quick = 0 if lived_s >= LIVED_S else boot.quick_ends + 1
    if quick > QUICK_ENDS:
        return None
    return replace(boot, run_dir="", engine=tag(), life=boot.life + 1, quick_ends=quick)
