"""Saturation: whether the generator or the machine was the bottleneck, so that the figures are not the server's."""

from __future__ import annotations

from pathlib import Path

from serving.bench.load import Load, Open
from serving.bench.recording import Recording

BUSY_CLIENT = 0.9
BUSY_MACHINE = 0.95
_LATE_MS = 1.0
_LATE_SHARE = 0.05
_STAT = Path("/proc/stat")


class Machine:
    """How busy all CPUs of this machine are between `begin` and `end`. Where there is no /proc it is never busy."""

    def __init__(self) -> None:
        self._before = self._after = (0, 0)

    def begin(self) -> None:
        self._before = _ticks()

    def end(self) -> None:
        self._after = _ticks()

    @property
    def busy(self) -> float:
        """Share of all CPU time in [0, 1] that was used, or taken by other machines on the same hardware."""
        total = self._after[0] - self._before[0]
        return 1 - (self._after[1] - self._before[1]) / total if total > 0 else 0.0


def warnings(recording: Recording, load: Load, machine: Machine) -> list[str]:
    """Return what makes the figures doubtful, as sentences."""
    found = []
    if recording.client_busy > BUSY_CLIENT:
        found.append(
            f"the generator used {recording.client_busy:.0%} of a core in its busiest process: it may be the bottleneck, "
            f"try {2 * recording.processes} processes"
        )
    if machine.busy > BUSY_MACHINE:
        found.append(f"the machine was {machine.busy:.0%} busy: generator and server may have waited for CPU")
    late_ms = recording.lateness.percentile(99) / 1e6
    if isinstance(load.shape, Open) and late_ms > max(_LATE_MS, _LATE_SHARE * recording.latency.percentile(50) / 1e6):
        total = max(recording.lateness.count, 1)
        reason = "waiting for a free connection" if recording.waited > total / 100 else "the generator was slow"
        found.append(f"requests began up to {late_ms:.1f} ms late (p99): {reason}; the latencies hold this time")
    return found


def _ticks() -> tuple[int, int]:
    """Return all ticks and those of them that were idle."""
    try:
        fields = [int(field) for field in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return sum(fields), fields[3] + fields[4]
