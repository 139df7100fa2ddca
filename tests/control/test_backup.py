"""A backup is whole, tells when it was changed, and comes back into an empty directory."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.control import backup
from serving.control.event import Event, Filter
from serving.control.ports import YamlText
from serving.control.store import SqliteStore
from serving.errors import InvalidArgument, Unavailable
from serving.plan import Target
from tests.control.fake_cluster import target


def with_file(path: Path) -> Target:
    """Return a target of one version whose artefact is this file."""
    base = target("mlp/1")
    (d,) = base.deployments
    return replace(
        base, deployments=(replace(d, plan=replace(d.plan, artefact=str(path)), digest=hashlib.sha256(path.read_bytes()).hexdigest()),)
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "model.py"
    file.write_text("class M: pass\n")
    return file


@pytest.fixture
def made(tmp_path: Path, model: Path) -> Path:
    """A backup with the model's file, of a store that has gone on since."""
    store = SqliteStore(tmp_path / "old" / "state.db")
    store.append(with_file(model), "ann", "first", 1.5, [YamlText("/x/mlp.yaml", "models: {}\n")], [Event("apply", "mlp/1 starts", "mlp")])
    manifest = backup.write(store, tmp_path / "backup.tar", 2.5, artefacts=True)
    assert (manifest["revision"], manifest["events"], manifest["intact"]) == (1, 1, True)
    store.append(target("mlp/2"), "ann", "later", 3.5)
    store.close()
    return tmp_path / "backup.tar"


def test_what_was_saved_is_there_again_and_nothing_later(tmp_path: Path, made: Path, model: Path) -> None:
    backup.restore(made, tmp_path / "new", "bob", 9.0)
    with closing(SqliteStore(tmp_path / "new" / "state.db")) as store:
        found = store.revision(1)
        assert found is not None
        assert (found.number, found.target, found.files) == (1, with_file(model), (YamlText("/x/mlp.yaml", "models: {}\n"),))
        assert store.recovered == ""
        assert store.verify().problem == ""
        assert [r.event.kind for r in store.events(Filter())] == ["apply", "restore", "restore"]
    assert (tmp_path / "new" / "state.db").stat().st_mode & 0o777 == 0o600
    assert [f.name for f in tmp_path.glob("new/restore-*")] == []


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "still there"])
def test_what_is_restored_runs_from_the_backup(tmp_path: Path, made: Path, model: Path, gone: bool) -> None:
    if gone:
        model.unlink()
    found = backup.restore(made, tmp_path / "new", "bob", 9.0)
    assert found["said"] == [f"revision 2: mlp/1 run from {tmp_path / 'new' / 'artefacts'}"]
    with closing(SqliteStore(tmp_path / "new" / "state.db")) as store:
        latest = store.latest()
        assert latest is not None
        (d,) = latest.target.deployments
        assert Path(d.plan.artefact).read_text() == "class M: pass\n"
        assert (latest.author, d.plan.artefact) == ("bob", str(tmp_path / "new" / "artefacts" / d.digest / "model.py"))


def test_a_file_that_goes_later_is_found_among_the_copies(tmp_path: Path, made: Path, model: Path) -> None:
    backup.restore(made, tmp_path / "new", "bob", 9.0)
    then, copies = with_file(model), tmp_path / "new" / backup.COPIES
    assert backup.from_copies(then, copies) == (then, [])
    model.unlink()
    found, moved = backup.from_copies(then, copies)
    assert moved == ["mlp/1"]
    assert Path(found.deployments[0].plan.artefact).read_text() == "class M: pass\n"
    assert backup.from_copies(found, copies) == (found, [])
    assert backup.from_copies(then, tmp_path / "nowhere") == (then, [])


def test_a_record_that_did_not_hold_is_restored_and_said(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "old" / "state.db")
    store.append(target("mlp/1"), "ann", "", 1.5, [], [Event("apply", "mlp/1 starts", "mlp"), Event("live", "mlp/1", "mlp")])
    with closing(sqlite3.connect(tmp_path / "old" / "state.db")) as database:
        database.execute("UPDATE events SET at = 7 WHERE number = 1")
        database.commit()
    assert not backup.write(store, tmp_path / "backup.tar", 2.5)["intact"]
    store.close()
    (said,) = backup.restore(tmp_path / "backup.tar", tmp_path / "new", "bob", 9.0)["said"]
    assert said.startswith("the record did not hold when the backup was made")
    assert "event 1" in said


def test_a_directory_with_a_state_is_left_alone(tmp_path: Path, made: Path) -> None:
    backup.restore(made, tmp_path / "new", "bob", 9.0)
    with pytest.raises(InvalidArgument, match="has a state already"):
        backup.restore(made, tmp_path / "new", "bob", 9.0)


def test_a_file_of_a_model_that_has_changed_cannot_be_backed_up(tmp_path: Path, model: Path) -> None:
    store = SqliteStore(tmp_path / "old" / "state.db")
    store.append(with_file(model), "ann", "", 1.5)
    model.write_text("other")
    with pytest.raises(Unavailable, match="is gone or no longer what runs"):
        backup.write(store, tmp_path / "backup.tar", 2.5, artefacts=True)
    backup.write(store, tmp_path / "backup.tar", 2.5)
    store.close()


Files = dict[str, bytes]


def _renamed(files: Files) -> None:
    manifest = json.loads(files["manifest.json"])
    manifest["files"]["../evil"] = manifest["files"].pop("state.db")
    manifest["files"]["state.db"] = manifest["files"]["../evil"]
    files["manifest.json"] = json.dumps(manifest).encode()
    files["../evil"] = files["state.db"]


def _told(files: Files, **words: Any) -> None:
    """Say something else in the manifest; None leaves it out."""
    manifest = {**json.loads(files["manifest.json"]), **words}
    files["manifest.json"] = json.dumps({name: value for name, value in manifest.items() if value is not None}).encode()


EDITS: dict[str, tuple[Callable[[Files], object], str]] = {
    "no manifest": (lambda f: f.pop("manifest.json"), "has no manifest.json"),
    "no json": (lambda f: f.update({"manifest.json": b"{"}), "is no backup"),
    "another release": (
        lambda f: f.update({"manifest.json": f["manifest.json"].replace(b'"release": 1', b'"release": 2')}),
        "another release",
    ),
    "another database": (lambda f: f.update({"state.db": f["state.db"][:-1] + b"x"}), "SHA-256 is another"),
    "no database": (lambda f: f.pop("state.db"), "lacks state.db"),
    "another head": (lambda f: _told(f, head="ab" * 32), "the record in .* does not hold: no event has the hash abab"),
    "half a manifest": (lambda f: _told(f, head=None, intact=None), "its manifest.json lacks head, intact"),
    "a name that leads out": (_renamed, r"lacks \.\./evil"),
}


@pytest.mark.parametrize(("edit", "message"), EDITS.values(), ids=EDITS)
def test_an_archive_that_was_changed_is_refused_and_leaves_nothing(
    tmp_path: Path, made: Path, edit: Callable[[Files], object], message: str
) -> None:
    with tarfile.open(made) as tar:
        files = {m.name: stream.read() for m in tar.getmembers() if (stream := tar.extractfile(m))}
    edit(files)
    with tarfile.open(made, "w") as tar:
        for name, raw in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    with pytest.raises(InvalidArgument, match=message):
        backup.restore(made, tmp_path / "new", "bob", 9.0)
    assert list((tmp_path / "new").iterdir()) == []
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("raw", [b"", b"no tar", b"\0" * 10240])
def test_what_is_no_archive_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(raw)
    with pytest.raises(InvalidArgument, match="is no backup"):
        backup.restore(tmp_path / "x.tar", tmp_path / "new", "bob", 9.0)
