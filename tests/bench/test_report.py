from __future__ import annotations

import csv
import io
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.compare import compare
from serving.bench.figures import Second, Server, Stability, Streaming, Window
from serving.bench.gate import judge, parse_rules
from serving.bench.histogram import Histogram
from serving.bench.report import table
from serving.bench.report.charts.load import load_chart
from serving.bench.report.charts.percentile import percentile_chart
from serving.bench.report.charts.ratio import pair_chart, ratio_chart
from serving.bench.report.charts.time import time_chart
from serving.bench.report.page import comparison_page, result_page
from serving.bench.report.scale import Scale, in_nines, latencies, linear, logarithmic, nines, ratios
from serving.bench.report.spreadsheet import COLUMNS, csv_text, timeline_csv
from serving.bench.report.words import about, count, duration, rate, share, size, titles
from serving.bench.result import Result
from serving.bench.sweep import Sweep
from tests.bench.samples import LOAD, TARGET, recording, result, runs, spread

BUSY = Server(
    queue_ms=1.0,
    compute_ms=2.0,
    network_ms=1.0,
    batch_sizes={"1": 3, "8": 1},
    cpu_s_per_1000=0.25,
    cores=1.5,
    rss_bytes=2**30,
    pss_bytes=2**29,
)
FULL = result(
    [recording({"small": spread(2), "<large>": spread(9)}, errors={"timeout": 3, "refused": 1}) for _ in range(3)],
    servers=[BUSY] * 3,
    slo_ms=20.0,
    name="ours & theirs",
    warnings=["swap is <on>"],
    streaming=Streaming(
        first_ms=result([recording({"a": [3.0]})]).latency_ms,
        between_ms=result([recording({"a": [1.0]})]).latency_ms,
        answers_per_request=7.5,
    ),
    stability=Stability(stable=True, windows=[Window(throughput_rps=100.0, latency_ms=2.0)]),
    command=["serving", "bench", "run"],
)
EMPTY = result([recording({"a": []}, errors={"connect": 7})], slo_ms=5.0)


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (None, "-"), (0.0, "0"), (0.0004, "0.4 µs"), (0.25, "250 µs"), (0.99949, "999 µs"),
        (0.9999, "1 ms"), (12.345, "12.3 ms"), (999.4, "999 ms"),
        (999.9, "1 s"), (1500, "1.5 s"), (3_600_000, "3,600 s"),
    ],
)  # fmt: skip
def test_durations_have_the_unit_that_suits_them(ms: float | None, words: str) -> None:
    assert duration(ms) == words


def test_other_numbers_are_short_too() -> None:
    assert [rate(None), rate(12345.6), rate(99.95), rate(0.5), rate(0.0)] == ["-", "12,346/s", "100/s", "0.5/s", "0/s"]
    assert [count(0), count(950), count(12_000), count(1_500_000)] == ["0", "950", "12k", "1.5M"]
    assert [size(None), size(0), size(1536), size(5 * 2**40)] == ["-", "0 B", "1.5 KiB", "5,120 GiB"]
    assert [share(0.5), share(0.00002)] == ["50 %", "0.002 %"]


def test_results_are_titled_by_what_tells_them_apart() -> None:
    assert titles([runs([100], name="a"), runs([100], name="b")]) == ["a", "b"]
    assert titles([runs([100]), runs([100], load=LOAD.model_copy(update={"concurrency": 4}))]) == ["16 at a time", "4 at a time"]
    assert titles([runs([100]), runs([100], target=TARGET.model_copy(update={"server": "other 2"}))]) == ["fake 1.0", "other 2"]
    assert titles([runs([100])] * 2) == ["run #1", "run #2"]
    assert about(FULL) == "mlp over rest, 16 at a time, 3 × 4 s · fake 1.0"


POSITIVE = st.floats(1e-3, 1e6)


@given(POSITIVE, POSITIVE)
def test_an_axis_covers_its_values_and_its_ticks_ascend(a: float, b: float) -> None:
    low, high = sorted((a, b))
    for scale in (linear(high, str), logarithmic(low, high, str), latencies([low, high])):
        ticks = [value for value, _ in scale.ticks]
        assert ticks == sorted(set(ticks))
        assert 2 <= len(ticks) <= 12
        assert all(0 <= scale.at(tick) <= 1 for tick in ticks)
        assert scale.transform(high) <= scale.high * (1 + 1e-9) + 1e-9
        assert scale.low <= scale.transform(low) + 1e-9
        assert scale.at(low) <= scale.at(high)


@given(st.lists(st.floats(0.001, 1000), max_size=5))
def test_an_axis_of_ratios_has_one_in_its_middle(values: list[float]) -> None:
    scale = ratios(values)
    assert scale.at(1.0) == pytest.approx(0.5)
    assert all(abs(scale.transform(value)) <= scale.high + 1e-9 for value in values if 0.01 <= value <= 100)


def test_each_further_nine_takes_as_much_room() -> None:
    assert [in_nines(percent) for percent in (0, 90, 99, 99.9)] == pytest.approx([0, 1, 2, 3])
    scale = nines(100_000)
    assert scale.high == 5.0
    assert [label for _, label in scale.ticks] == ["0", "50 %", "75 %", "90 %", "95 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]
    assert [label for _, label in nines(3).ticks] == ["0", "50 %", "75 %", "90 %"]


def drawing(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def line(svg: str, classes: str) -> list[tuple[float, float]]:
    """Return the points of the first line of these classes."""
    found = next(one for one in drawing(svg).iter("polyline") if one.get("class") == f"line {classes}")
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in found.get("points", "").split())]


def test_the_percentile_plot_rises_to_the_last_value() -> None:
    chart = percentile_chart([("a", Histogram.of([1_000_000 * n for n in range(1, 1001)])), ("b", Histogram.of([5_000_000] * 10))])
    assert chart is not None
    points = line(chart.svg, "s0")
    assert points == sorted(points, key=lambda point: (point[0], -point[1]))
    assert points[-1][0] == pytest.approx(72 + 960 - 96, abs=0.1)
    assert {y for _, y in line(chart.svg, "s1")} == {line(chart.svg, "s1")[0][1]}
    assert [words for _, words in chart.legend] == ["a", "b"]
    assert "p50 500 ms" in (drawing(chart.svg).get("aria-label") or "")
    assert percentile_chart([("a", Histogram())]) is None


def test_the_time_plot_marks_errors_and_repetitions() -> None:
    chart = time_chart(FULL.timeline, slo_ms=3.0)
    assert chart is not None
    marks = [one.get("class") for one in drawing(chart.svg).iter("rect") if one.get("class")]
    assert marks.count("bar bad") == marks.count("shade bad") == 3
    words = [one.text for one in drawing(chart.svg).iter("text")]
    assert {"run 2", "run 3", "SLO 3 ms"} <= set(words)
    assert any(word and word.startswith("4 s: p50") and "errors/s" in word for word in words)
    assert time_chart(FULL.timeline[:1]) is None


def test_the_time_plot_shows_a_second_without_an_answer_as_a_gap_of_answers() -> None:
    seconds = [Second(at_s=0, answers=10, p50_ms=1, p99_ms=2, max_ms=3), Second(at_s=2, answers=10, p50_ms=1, p99_ms=2, max_ms=3)]
    chart = time_chart(seconds)
    assert chart is not None
    assert "1 s: no answer" in chart.svg
    assert len(line(chart.svg, "s0")) == 2


def test_long_tests_are_drawn_in_steps_of_several_seconds() -> None:
    chart = time_chart([Second(at_s=n, answers=n, p50_ms=1, p99_ms=2, max_ms=float(n)) for n in range(1000)])
    assert chart is not None
    assert len(line(chart.svg, "s0")) == 200
    assert chart.note.startswith("Each point is 5 s")


def test_throughput_against_latency_needs_two_points() -> None:
    points = [runs([100], load=LOAD.model_copy(update={"concurrency": number})) for number in (1, 2)]
    chart = load_chart({"ours": points, "theirs": [EMPTY]})
    assert chart is not None
    assert [words for _, words in chart.legend] == ["ours p50", "ours p99", "theirs p50", "theirs p99"]
    assert {"1", "2"} <= {one.text for one in drawing(chart.svg).iter("text")}
    assert load_chart({"ours": points[:1]}) is None


def test_a_comparison_is_drawn_with_its_verdicts() -> None:
    comparison = compare(runs([100] * 4, interleaved="x"), runs([200] * 4, interleaved="x"))
    chart, pairs = ratio_chart(comparison), pair_chart(comparison)
    assert chart is not None
    assert pairs is not None
    words = {one.text for one in drawing(chart.svg).iter("text")}
    assert "2.000x  better" in words
    assert "0.500x  worse" not in words
    assert len([one for one in drawing(pairs.svg).iter("circle") if one.get("class") == "dot s0"]) == 4
    assert pair_chart(compare(runs([100]), runs([200]))) is None


def test_tables_say_everything_that_is_known() -> None:
    found = {one.title: one for one in table.result_tables(FULL)}
    assert list(found) == [
        "Summary", "Latency", "By request", "Errors", "Server", "Batches", "Load generator", "Repetitions",
        "Windows: the last three within 10%",
    ]  # fmt: skip
    assert ("errors", "12 (0.498 %)", "") in found["Summary"].rows
    assert ("answers per request", "7.5", "") in found["Summary"].rows
    assert found["Errors"].rows == (("timeout", "9", "first timeout"), ("refused", "3", "first refused"))
    assert ("CPU per 1000 answers", "0.2500 s") in found["Server"].rows
    assert ("mean batch", "2.75") in found["Server"].rows
    assert found["Batches"].rows == (("1", "9", "75 %"), ("8", "3", "25 %"))
    assert [row[0] for row in found["Repetitions"].rows] == ["1", "2", "3"]
    assert all(len(row) == len(one.columns) for one in found.values() for row in one.rows)


def test_tables_of_nothing_answered_have_no_figures() -> None:
    found = {one.title: one for one in table.result_tables(EMPTY)}
    assert "Latency" not in found
    assert ("errors", "7 (100 %)") in found["Summary"].rows


class Page(HTMLParser):
    """What a page refers to, and whether its elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.elements: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action", "xlink:href")]
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


PAGES = {
    "one": lambda: result_page([FULL]),
    "nothing answered": lambda: result_page([EMPTY]),
    "several": lambda: result_page([FULL, EMPTY, runs([100])]),
    "sweep": lambda: result_page([], [Sweep(name="ours", points=[runs([100]), runs([200])])]),
    "sweep and result": lambda: result_page([FULL], [Sweep(points=[runs([100])])]),
    "comparison": lambda: comparison_page(
        compare(runs([100] * 4, interleaved="x"), runs([200] * 4, interleaved="x")),
        judge(parse_rules(["errors==0", "p99<=1ms"]), runs([100])),
    ),
    "comparison of single runs": lambda: comparison_page(compare(FULL, EMPTY)),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_needs_no_network(name: str) -> None:
    text = PAGES[name]()
    page = Page(text)
    assert page.open == []
    assert page.references == []
    assert not {"script", "link", "iframe", "img"} & set(page.elements)
    assert not re.search(r"@import|url\(", text)
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"\b(nan|inf)\b|None", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))


def test_texts_of_others_are_escaped() -> None:
    text = result_page([FULL])
    assert "swap is &lt;on&gt;" in text
    assert "&lt;large&gt;" in text
    assert "<title>ours &amp; theirs</title>" in text
    assert "<large>" not in text


def test_every_drawing_of_a_page_lies_within_its_frame() -> None:
    for text in (result_page([FULL]), PAGES["comparison"](), PAGES["sweep"]()):
        for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
            root = drawing(svg)
            _, _, width, height = (float(number) for number in root.get("viewBox", "").split())
            for one in root.iter():
                for name, most in (
                    ("x", width),
                    ("x1", width),
                    ("x2", width),
                    ("cx", width),
                    ("y", height),
                    ("y1", height),
                    ("cy", height),
                ):
                    value = float(one.get(name, "0"))
                    assert math.isfinite(value)
                    assert -0.1 <= value <= most + 0.1


def test_a_page_needs_a_result() -> None:
    with pytest.raises(ValueError, match="at least one result"):
        result_page([])


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_a_row_for_the_whole_each_request_and_each_repetition() -> None:
    found = rows(csv_text([FULL, EMPTY]))
    assert list(found[0]) == list(COLUMNS)
    assert [(row["scope"], row["name"]) for row in found] == [
        ("all", ""), ("request", "small"), ("request", "<large>"), ("repetition", "1"), ("repetition", "2"), ("repetition", "3"),
        ("all", ""), ("request", "a"), ("repetition", "1"),
    ]  # fmt: skip
    assert float(found[0]["p99_ms"]) == FULL.latency_ms.p99
    assert float(found[0]["throughput_rps"]) == FULL.throughput_rps
    assert (found[0]["server_cpu_s_per_1000"], found[1]["server_cpu_s_per_1000"]) == ("0.25", "")
    assert (found[6]["p99_ms"], found[6]["errors"]) == ("", "7")


def test_the_timeline_as_csv_has_a_row_for_each_second() -> None:
    found = rows(timeline_csv([FULL]))
    assert len(found) == 12
    assert (found[4]["repetition"], found[4]["at_s"], found[4]["errors"]) == ("2", "0.0", "4")


def test_scales_clip_what_lies_outside() -> None:
    scale = Scale(0.0, 10.0, float, ())
    assert (scale.at(-5), scale.at(5), scale.at(50)) == (0.0, 0.5, 1.0)


def test_a_result_without_a_histogram_has_a_page_as_well() -> None:
    bare: Result = runs([100]).model_copy(update={"histogram": "", "timeline": []})
    assert "<svg" not in result_page([bare])
