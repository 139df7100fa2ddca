"""A backup: one .tar file with the record of an engine, written while it runs; and the way back, into an empty state directory.

    manifest.json       release of this format, time, newest revision, head of the chain of events, SHA-256 and size of every other file
    state.db            revisions with the text of their YAML, events, keys (as hashes), what webhooks have had; as at one moment
    yaml/N-NAME         the files of the newest revision, for people
    artefacts/SHA/NAME  models' files of the newest revision, where they were asked for

Not in it: logs, secrets in files, `admin.key`, and what a model's class reads besides its artefact and weights.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from serving.control.acceptance import Act, accept
from serving.control.event import Event
from serving.control.ports import Revision
from serving.control.store import COPY, SqliteStore
from serving.errors import InvalidArgument, Unavailable
from serving.plan import DeploymentTarget, Target

RELEASE = 1
DATABASE, MANIFEST = "state.db", "manifest.json"
COPIES = "artefacts"
"""Folder in a restored state directory: SHA/NAME."""
_LARGEST_MANIFEST = 64 << 20
_CHUNK = 1 << 20


def write(store: SqliteStore, to: Path, at: float, artefacts: bool = False) -> dict[str, Any]:
    """Write the archive and return its manifest. Raises Unavailable where the disk does not do as it should, or a model's file is gone."""
    with tempfile.TemporaryDirectory(dir=to.parent) as folder:
        copy = Path(folder) / DATABASE
        store.copy(copy)
        with closing(SqliteStore(copy)) as still:
            revision, chain = still.latest(), still.verify()
        files: dict[str, dict[str, Any]] = {}
        try:
            with tarfile.open(to, "w") as archive:
                _add_file(archive, files, DATABASE, copy)
                if revision is not None:
                    _add_texts(archive, files, revision)
                    if artefacts:
                        _add_artefacts(archive, files, revision.target)
                manifest = {
                    "release": RELEASE,
                    "made_at": at,
                    "revision": revision.number if revision else 0,
                    "events": chain.events,
                    "head": chain.head,
                    "intact": not chain.problem,
                    "files": files,
                }
                _add_text(archive, MANIFEST, json.dumps(manifest, indent=2))
        except OSError as error:
            raise Unavailable(f"{error.filename or to}: {error.strerror}") from error
    return manifest


def restore(archive: Path, state_dir: Path, author: str, at: float) -> dict[str, Any]:
    """Put an archive into a state directory that has no state yet; return its manifest with what was done, in words ("said").

    Models' files in the archive are laid into `state_dir/artefacts`, and a new revision points there: what is restored depends on
    no file outside. Raises InvalidArgument where the archive is none or was changed, or the directory has a state.
    """
    if (state_dir / DATABASE).exists() or (state_dir / COPY).exists():
        raise InvalidArgument(f"{state_dir} has a state already; give an empty directory")
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=state_dir, prefix="restore-") as folder:
        manifest = _unpack(archive, Path(folder))
        with closing(SqliteStore(Path(folder) / DATABASE)) as store:
            problem = store.verify(manifest["head"]).problem
        if problem and manifest["intact"]:
            raise InvalidArgument(f"the record in {archive} does not hold: {problem}")
        if (Path(folder) / "artefacts").exists():
            (Path(folder) / "artefacts").rename(state_dir / "artefacts")
        (Path(folder) / DATABASE).rename(state_dir / DATABASE)
    said = [f"the record did not hold when the backup was made, and does not now: {problem}"] if problem else []
    with closing(SqliteStore(state_dir / DATABASE)) as store:
        latest = store.latest()
        store.record([Event("restore", f"the state comes from a backup of revision {manifest['revision']}", who=author)], at)
        if latest is not None:
            target, moved = from_copies(latest.target, state_dir / COPIES, everything=True)
            if moved:
                act = Act(author, "files of models come from the backup", "restore", latest.files)
                said.append(f"revision {accept(store, latest, target, act, at).number}: {', '.join(moved)} run from {state_dir / COPIES}")
    return {**manifest, "said": said}


def _unpack(archive: Path, folder: Path) -> dict[str, Any]:
    """Lay out the files that the manifest names, each against its digest; return the manifest."""
    try:
        with tarfile.open(archive, "r:") as tar:
            members = {m.name: m for m in tar.getmembers() if m.isreg()}
            if MANIFEST not in members or members[MANIFEST].size > _LARGEST_MANIFEST:
                raise InvalidArgument(f"{archive} is no backup of an engine: it has no {MANIFEST}")
            manifest: dict[str, Any] = json.loads(_opened(tar, members[MANIFEST]).read())
            if manifest["release"] != RELEASE or DATABASE not in manifest["files"]:
                raise InvalidArgument(f"{archive} is a backup of another release ({manifest['release']})")
            if absent := {"revision", "events", "head", "intact"} - manifest.keys():
                raise InvalidArgument(f"{archive} is no backup of an engine: its {MANIFEST} lacks {', '.join(sorted(absent))}")
            for name, told in manifest["files"].items():
                if name not in members or not _is_ours(name):
                    raise InvalidArgument(f"{archive} lacks {name}")
                if _lay(_opened(tar, members[name]), folder / name) != told["sha256"]:
                    raise InvalidArgument(f"{name} in {archive} is not what was backed up: its SHA-256 is another")
            return manifest
    except (tarfile.TarError, OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(f"{archive} is no backup of an engine: {error}") from error


def _is_ours(name: str) -> bool:
    """Whether a name stays inside the folder that it is laid into."""
    path = PurePosixPath(name)
    return path.parts[0] in (DATABASE, "yaml", "artefacts") and ".." not in path.parts and not path.is_absolute()


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(member)
    assert stream is not None  # a regular file has one
    return stream


def _lay(stream: IO[bytes], to: Path) -> str:
    """Copy a stream into a private file; return the SHA-256 of what came."""
    digest = hashlib.sha256()
    to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with to.open("wb") as file:
        to.chmod(0o600)
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def from_copies(target: Target, folder: Path, everything: bool = False) -> tuple[Target, list[str]]:
    """Return the target with paths into `folder`, and the keys of the versions that have some.

    A path is taken where the folder has the file with the recorded SHA-256, and the original is gone; with `everything` wherever it has.
    """
    deployments, moved = [], []
    for d in target.deployments:
        paths = dict(zip(("artefact", "weights"), _files(d), strict=False))
        there = {name: folder / sha / path.name for name, (path, sha) in paths.items() if everything or not path.exists()}
        there = {name: path for name, path in there.items() if path.exists() and path != paths[name][0]}
        if there:
            artefact, weights = (str(there.get(name, was)) for name, was in (("artefact", d.plan.artefact), ("weights", d.plan.weights)))
            d = replace(d, plan=replace(d.plan, artefact=artefact, weights=weights))
            moved.append(d.key)
        deployments.append(d)
    return replace(target, deployments=tuple(deployments)), moved


def _files(d: DeploymentTarget) -> list[tuple[Path, str]]:
    """Return artefact and weights, with their SHA-256."""
    paths = [Path(p) for p in (d.plan.artefact, d.plan.weights) if p]
    return list(zip(paths, d.digest.split("+"), strict=False))


def _same(path: Path, sha: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha
    except OSError:
        return False


def _add_texts(archive: tarfile.TarFile, files: dict[str, dict[str, Any]], revision: Revision) -> None:
    for number, file in enumerate(revision.files):
        name = f"yaml/{number}-{Path(file.name).name}"
        _add_text(archive, name, file.text)
        files[name] = _told(file.text.encode())


def _add_artefacts(archive: tarfile.TarFile, files: dict[str, dict[str, Any]], target: Target) -> None:
    for d in target.deployments:
        for path, sha in _files(d):
            name = f"artefacts/{sha}/{path.name}"
            if name not in files:
                if not _same(path, sha):
                    raise Unavailable(f"{path} of {d.key} is gone or no longer what runs; it cannot be backed up")
                _add_file(archive, files, name, path)


def _add_file(archive: tarfile.TarFile, files: dict[str, dict[str, Any]], name: str, path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        info = tarfile.TarInfo(name)
        info.size = file.tell()
        info.mode = 0o600
        file.seek(0)
        archive.addfile(info, file)
    files[name] = {"sha256": digest, "bytes": info.size}


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    raw = text.encode()
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(raw), 0o600
    archive.addfile(info, io.BytesIO(raw))


def _told(raw: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
