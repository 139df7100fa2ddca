"""Watch: reads the server's side when a measurement begins and when it is over, and passes progress on."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from serving.bench.figures import Server
from serving.bench.process_tree import ProcessTree
from serving.bench.recording import Progress, Recording
from serving.bench.server_side import Counts, Reading, between
from serving.errors import Unavailable


class Watch:
    """Give `told` to the generator, and ask `server` when it is done.

    tree    the server's processes, None where they cannot be seen
    counts  what the server has counted of its models, None where it does not
    """

    def __init__(
        self, tree: ProcessTree | None, counts: Callable[[], Counts | None] = lambda: None, told: Callable[[Progress], None] | None = None
    ) -> None:
        self._tree = tree
        self._counts = counts
        self._pass_on = told
        self._before: Reading | None = None
        self._answers = 0
        self._began = 0.0

    def told(self, progress: Progress) -> None:
        if progress.phase == "measuring" and self._before is None:
            self._before = self._read(memory=False)
            self._answers = progress.answers
            self._began = monotonic()
        if self._pass_on is not None:
            self._pass_on(progress)

    def server(self, recording: Recording) -> Server:
        """Return what the server did since the measurement began; nothing where it never did."""
        if self._before is None:
            return Server()
        latency = recording.latency
        return between(
            self._before,
            self._read(memory=True),
            mean_latency_ms=latency.mean_ns / 1e6 if latency.count else None,
            answers=recording.answers - self._answers,
            wall_s=monotonic() - self._began,
        )

    def _read(self, *, memory: bool) -> Reading:
        try:
            counts = self._counts()
        except Unavailable:  # it went away under the load, which is what the report has to tell
            counts = None
        return Reading(counts, self._tree.read(memory=memory) if self._tree else None)
