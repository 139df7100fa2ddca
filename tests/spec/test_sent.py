from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidArgument
from serving.spec.sent import SentFiles


def test_files_are_kept_for_this_user_alone_and_the_same_ones_once(tmp_path: Path) -> None:
    sent = SentFiles(tmp_path / "sent")
    folder = sent.keep("m", {"1/model.py": b"a", "labels.txt": b"b"})
    assert (folder / "1" / "model.py").read_bytes() == b"a"
    assert (folder / "labels.txt").read_bytes() == b"b"
    assert stat.S_IMODE((tmp_path / "sent").stat().st_mode) == 0o700
    assert sent.keep("m", {"labels.txt": b"b", "1/model.py": b"a"}) == folder
    other = sent.keep("m", {"1/model.py": b"c"})
    assert other != folder
    assert sent.has(str(other / "1" / "model.py"))
    assert not sent.has("/etc/passwd")
    sent.tidy({str(other / "1" / "model.py"), "/etc/passwd"})
    assert list((tmp_path / "sent" / "m").iterdir()) == [other]
    sent.tidy(set())
    assert list((tmp_path / "sent" / "m").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "1/../../x",
        "/etc/passwd",
        "",
        "1//x",
        "1/.hidden",
        "1/x\0",
        "1/" + "a" * 200,
        "a/" * 9 + "a",
        "1\\x",
        "~/x",
        "1/a..b",
        "1/x\n",
    ],
)
def test_no_path_leads_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a path such as"):
        SentFiles(tmp_path / "sent").keep("m", {name: b""})
    assert not (tmp_path / "sent").exists()


@given(st.text(alphabet="ab1./\\~\0 -_", max_size=20))
def test_whatever_is_taken_stays_inside(name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        try:
            folder = SentFiles(Path(place) / "sent").keep("m", {name: b"x"})
        except InvalidArgument:
            assert not (Path(place) / "sent").exists()
            return
        assert (folder / name).resolve().is_relative_to(folder.resolve())
        assert (folder / name).read_bytes() == b"x"


@pytest.mark.parametrize("model", ["..", "a/b", "", "x" * 200])
def test_a_model_name_is_checked_too(tmp_path: Path, model: str) -> None:
    with pytest.raises(InvalidArgument):
        SentFiles(tmp_path / "sent").keep(model, {"1/m": b""})
