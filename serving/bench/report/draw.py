"""SVG by hand: plots with axes, lines, bands and marks, drawn once and without scripts, so that they show wherever HTML shows.

Colours and fonts are the page's: shapes carry classes (`style.css`). Texts are escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from markupsafe import Markup

from serving.bench.report.scale import Scale

Points = Sequence[tuple[float, float]]

WIDTH = 960


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn plot. `legend`: (classes of its sample, text)."""

    title: str
    svg: Markup
    legend: tuple[tuple[str, str], ...] = ()
    note: str = ""


def svg(height: float, label: str, parts: Iterable[str]) -> Markup:
    """Return a whole drawing, as wide as its place."""
    body = "".join(parts)
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label)}">{body}</svg>')


def text(x: float, y: float, words: str, classes: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}" text-anchor="{anchor}">{escape(words)}</text>'


@dataclass(frozen=True, slots=True)
class Plot:
    """A rectangle with two axes. All methods return SVG; points are (x, y) in the units of the axes."""

    left: float
    top: float
    width: float
    height: float
    x: Scale
    y: Scale

    def px(self, value: float) -> float:
        return self.left + self.x.at(value) * self.width

    def py(self, value: float) -> float:
        return self.top + (1 - self.y.at(value)) * self.height

    def axes(self, x_title: str = "", y_title: str = "", *, x_labels: bool = True) -> str:
        """Return grid, ticks and titles."""
        right, bottom = self.left + self.width, self.top + self.height
        parts = []
        for value, label in self.y.ticks:
            y = self.py(value)
            parts.append(f'<line x1="{self.left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            parts.append(text(self.left - 8, y + 4, label, "tick", "end"))
        for value, label in self.x.ticks:
            x = self.px(value)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{self.top:.1f}" y2="{bottom:.1f}" class="grid"/>')
            if x_labels:
                parts.append(text(x, bottom + 18, label, "tick", "middle"))
        parts.append(f'<line x1="{self.left:.1f}" x2="{right:.1f}" y1="{bottom:.1f}" y2="{bottom:.1f}" class="axis"/>')
        if y_title:
            parts.append(text(self.left, self.top - 10, f"{y_title} ({self.y.note})" if self.y.note else y_title, "axis-title"))
        if x_title and x_labels:
            parts.append(text(right, bottom + 36, x_title, "axis-title", "end"))
        return "".join(parts)

    def line(self, points: Points, classes: str) -> str:
        if not points:
            return ""
        return f'<polyline points="{self._path(points)}" class="line {classes}"/>'

    def band(self, upper: Points, lower: Points, classes: str) -> str:
        """Return the area between two lines over the same x."""
        if not upper:
            return ""
        return f'<polygon points="{self._path([*upper, *reversed(lower)])}" class="band {classes}"/>'

    def dots(self, points: Points, classes: str, radius: float = 3.5) -> str:
        return "".join(f'<circle cx="{self.px(x):.1f}" cy="{self.py(y):.1f}" r="{radius:g}" class="dot {classes}"/>' for x, y in points)

    def across(self, value: float, words: str, classes: str) -> str:
        """Return a horizontal line at a y value with its words at its left end."""
        y, right = self.py(value), self.left + self.width
        line = f'<line x1="{self.left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="{classes}"/>'
        return line + text(self.left + 6, y - 5 if y > self.top + 20 else y + 15, words, f"{classes}-words")

    def hover(self, tips: Sequence[tuple[float, str, Sequence[tuple[float, str]]]], below: float = 0.0) -> str:
        """Return what shows under the pointer: for each (x, words, marks) a rule at x, its words above the plot, its marks (y, classes).

        `below`: so far beneath the plot it reacts and reaches as well.
        """
        tall = self.height + below
        xs = [self.px(x) for x, _, _ in tips]
        edges = [self.left, *((a + b) / 2 for a, b in pairwise(xs)), self.left + self.width]
        parts = []
        for number, (x, words, marks) in enumerate(tips):
            start, wide = edges[number], max(edges[number + 1] - edges[number], 0.1)
            parts.append('<g class="slot">')
            parts.append(f'<rect x="{start:.1f}" y="{self.top:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>')
            parts.append(f'<g class="tip"><path d="M{xs[number]:.1f} {self.top:.1f}v{tall:.1f}"/>')
            parts.append(self.dots([(x, y) for y, _ in marks], "here", 4) if marks else "")
            parts.append(text(self.left + self.width, self.top - 10, words, "said", "end") + "</g></g>")
        return "".join(parts)

    def _path(self, points: Points) -> str:
        return " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in points)
