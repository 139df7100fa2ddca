"""The README's figures are those of a result that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import readme


def test_the_readme_shows_the_result_that_it_names() -> None:
    found = readme.marked(readme.FILE.read_text())
    assert found[0] == readme.block(readme.RESULTS / found[1])


def test_figures_take_the_place_of_those_that_are_there(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    text = readme.FILE.read_text()
    found = readme.marked(text)
    file.write_text(text.replace(found[0], "<!-- figures: benchmarks/results/old.json, by x -->\nold\n<!-- end of figures -->"))
    readme.write(readme.RESULTS / found[1], file)
    assert file.read_text() == text


def test_a_readme_without_marks_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("nothing")
    newest = readme.newest()
    assert newest is not None
    with pytest.raises(ValueError, match="marks"):
        readme.write(newest, file)
    assert file.read_text() == "nothing"
