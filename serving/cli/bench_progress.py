"""How a load test stands while it runs: one line on stderr that changes, or nothing where stderr is not a terminal."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from serving.bench.recording import Progress

BAR = 24


class ProgressLine:
    """Shows what it is told; enter it around a run. `title` says which run of several it is."""

    def __init__(self, shown: bool = True) -> None:
        self._live = Live(console=Console(stderr=True), transient=True, auto_refresh=False) if shown and sys.stderr.isatty() else None
        self.title = ""

    def __enter__(self) -> ProgressLine:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def told(self, progress: Progress) -> None:
        if self._live is not None:
            self._live.update(Text(line(progress, self.title)), refresh=True)


def line(progress: Progress, title: str = "") -> str:
    """Return how a run stands, in one line."""
    of = f" of {progress.duration_s:g}" if progress.duration_s else ""
    share = min(1.0, progress.elapsed_s / progress.duration_s) if progress.duration_s else 0.0
    bar = "━" * round(BAR * share) + " " * (BAR - round(BAR * share)) if progress.duration_s else ""
    said = f"{title}{progress.phase} {bar} {progress.elapsed_s:.0f}{of} s"
    if progress.phase in ("warming up", "measuring", "draining"):
        said += f"   {progress.rate_rps:,.0f}/s   p50 {progress.p50_ms:.3g} ms   p99 {progress.p99_ms:.3g} ms"
        said += f"   {progress.in_flight} under way" + (f"   {progress.errors:,} errors" if progress.errors else "")
    return said
