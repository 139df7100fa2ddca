"""The README's table of figures: made from a result of `scripts/bench-overhead`, put between two marks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.machine import RESULTS

FILE = Path(__file__).parents[1] / "README.md"
_BEGIN = "<!-- figures: benchmarks/results/{name}, by scripts/bench-overhead --readme -->"
_END = "<!-- end of figures -->"
_BLOCK = re.compile(r"<!-- figures: benchmarks/results/(\S+),.*?-->.*?" + re.escape(_END), re.DOTALL)


def newest() -> Path | None:
    """Return the result of the last whole sitting, by the date in its name."""
    return max(RESULTS.glob("overhead-*.json"), default=None)


def figures(file: Path) -> str:
    """Return the tables of a result, as Markdown. OSError, ValueError or KeyError where it is none."""
    found: dict[str, Any] = json.loads(file.read_text())
    notes = [_cross_check(found["cross_check"])] if found.get("cross_check") else []
    return table.markdown(found["runs"], found["machine"], found["date"], found["rounds"], notes)


def block(file: Path) -> str:
    """Return what stands between the marks, with them."""
    return f"{_BEGIN.format(name=file.name)}\n\n{figures(file)}\n{_END}"


def marked(text: str) -> re.Match[str]:
    """Return where the figures are in a README: group 1 is the name of their file. ValueError where they are not."""
    found = _BLOCK.search(text)
    if found is None:
        raise ValueError(f"the marks of the figures are not there: {_BEGIN.format(name='NAME')} and {_END}")
    return found


def write(file: Path, readme: Path = FILE) -> None:
    """Put the tables of a result in place of those that are there."""
    text = readme.read_text()
    found = marked(text)
    readme.write_text(text[: found.start()] + block(file) + text[found.end() :])


def _cross_check(agreements: list[dict[str, Any]]) -> str:
    said = [
        f"over {'REST' if one['protocol'] == 'rest' else 'gRPC'} {one['bench_p50_ms']:.2f} ms ({one['tool']} {one['tool_p50_ms']:.2f}, "
        f"{one['apart']:.1%} apart)"
        for one in agreements
    ]
    return f"The generator is `serving bench`. p50 of a server that answers after a fixed time: {'; '.join(said)}."
