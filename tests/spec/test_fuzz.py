"""Any text either is a declaration or raises InvalidSpec with places inside the text: never any other error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.plan import Target
from serving.spec import InvalidSpec, Problem, Source, parse
from tests.spec.test_load import FULL, TRAFFIC

SEEDS = [FULL, TRAFFIC, *(path.read_text() for path in sorted(Path(__file__).parents[2].glob("configs/*.yaml")))]
TOKENS = [
    "", " ", "\n", "\t", ":", ": ", "-", "- ", "[", "]", "{", "}", ",", "#", "&a ", "*a", "<<: *a", "<<: ", "'", '"', "|\n", "? ", "@", "`",
    "!!int ", "!!set ", "!x ", "---\n", "...\n", "%YAML 9\n", "~", "null", "true", "no", "0", "-1", "1e400", "9" * 30, "010",
    "\ufeff", "\x00", "\x85", "\ud7ff", "\\ud800", '"\\ud800"', '"\\UFFFFFFFF"', "é", "🙂",
    "models", "versions", "stable", "batching", "max_batch_size", "artefact", "x" * 300,
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 2, 5, 30])))
        text = text[:start] + draw(st.sampled_from(TOKENS) | st.just(text[start:end] * 2)) + text[end:]
    return text


def attempt(text: str, folder: Path) -> None:
    """Parse the text; fail on any error but InvalidSpec, and on one that cannot be shown or points outside the text."""
    problems: tuple[Problem, ...] = ()
    try:
        assert isinstance(parse([Source("f.yaml", text, folder)]), Target)
    except InvalidSpec as invalid:
        problems = invalid.problems or (Problem("", 0, 0, "an error that says nothing"),)
    lines = 1 + sum(map(text.count, "\n\r\x85\u2028\u2029"))
    for problem in problems:
        assert 1 <= problem.line <= lines
        assert problem.column >= 1
        assert problem.message.isprintable()
        str(problem).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "a.pt2").write_bytes(b"a")
    (folder / "net.py").write_text("class Mlp: ...\n")
    (folder / "w.safetensors").write_bytes(b"w")
    return folder


@settings(deadline=None)
@given(text=mutated())
def test_a_mutated_file_is_taken_or_refused_with_its_places(folder: Path, text: str) -> None:
    attempt(text, folder)


@settings(deadline=None)
@given(text=st.text(max_size=60) | st.lists(st.sampled_from(TOKENS), max_size=12).map("".join))
def test_any_text_is_taken_or_refused(folder: Path, text: str) -> None:
    attempt(text, folder)


SCALARS = ["1", "-1", "0", "1.5", "x", "''", "~", "true", "FP32", "a.pt2", "net.py", "Mlp", "torch", "1e9"]
WORDS = [
    "models", "m", "versions", "1", "2", "traffic", "stable", "split", "sticky", "header", "rules", "matches", "shadow", "percent",
    "signature", "inputs", "outputs", "name", "dtype", "shape", "batching",
    "max_batch_size", "max_delay_ms", "resources", "gpus", "labels", "warm_up", "batch_sizes", "artefact", "runtime", "entry", "options",
    "limits", "max_body_mb", "replicas", "zz",
]  # fmt: skip


def nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lists = st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
    entries = st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    return lists | entries.map(lambda found: "{" + ", ".join(f"{k}: {v}" for k, v in found.items()) + "}")


VALUES = st.recursive(st.sampled_from(SCALARS), nested, max_leaves=20)


@settings(deadline=None)
@given(model=VALUES, version=VALUES, top=VALUES)
def test_any_values_under_the_known_words_are_taken_or_refused(folder: Path, model: str, version: str, top: str) -> None:
    attempt(f"models: {{m: {model}, n: {{versions: {{1: {version}}}}}}}\nlimits: {top}\n", folder)
