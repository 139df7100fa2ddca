"""Shared memory as a gateway has it open: bounds, files that shrink or are replaced, and use after the end of a registration."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.errors import InvalidArgument, NotFound, ServingError, Unavailable, Unsupported
from serving.gateway.regions import Regions
from serving.protocol.special import Region
from serving.wishes import SharedRegion


@pytest.fixture
def file() -> Iterator[Path]:
    path = Path("/dev/shm") / f"serving-test-{secrets.token_hex(6)}"
    path.write_bytes(bytes(range(100)))
    yield path
    path.unlink(missing_ok=True)


def region(file: Path, offset: int = 10, nbytes: int = 80, name: str = "r") -> SharedRegion:
    status = file.stat()
    return SharedRegion(name, f"/{file.name}", offset, nbytes, status.st_dev, status.st_ino)


def opened(*shared: SharedRegion) -> Regions:
    regions = Regions()
    regions.apply(True, shared)
    return regions


def test_what_was_written_is_read(file: Path) -> None:
    regions = opened(region(file))
    into = bytearray(5)
    regions.read(Region("r", 2, 5), memoryview(into))
    assert bytes(into) == bytes(range(12, 17))
    regions.write(Region("r", 79, 1), b"!")
    assert file.read_bytes()[89] == ord("!")
    assert file.stat().st_size == 100


@pytest.mark.parametrize(
    ("where", "kind", "text"),
    [
        (Region("zz", 0, 1), NotFound, "Unable to find shared memory region: 'zz'"),
        (Region("r", 81, 0), InvalidArgument, "Invalid offset for shared memory region"),
        (Region("r", 80, 1), InvalidArgument, "Invalid offset for shared memory region"),
        (Region("r", 79, 2), InvalidArgument, "Invalid offset \\+ byte size for shared memory region"),
        (Region("r", 1 << 70, 1), InvalidArgument, "Invalid offset for shared memory region"),
        (Region("r", 0, 1 << 70), InvalidArgument, "Invalid offset \\+ byte size for shared memory region"),
    ],
)
def test_nobody_leaves_his_region(file: Path, where: Region, kind: type[ServingError], text: str) -> None:
    regions = opened(region(file))
    with pytest.raises(kind, match=text):
        regions.read(where, memoryview(bytearray(1)))
    with pytest.raises(kind, match=text):
        regions.write(where, b"x")


def test_a_file_that_became_shorter_is_an_error_and_stays_short(file: Path) -> None:
    regions = opened(region(file))
    os.truncate(file, 20)
    into = bytearray(5)
    regions.read(Region("r", 0, 5), memoryview(into))
    for where in (Region("r", 6, 5), Region("r", 40, 5)):
        with pytest.raises(InvalidArgument):
            regions.read(where, memoryview(bytearray(5)))
        with pytest.raises(InvalidArgument):
            regions.write(where, b"12345")
    assert file.stat().st_size == 20


def test_another_file_in_its_place_is_not_read(file: Path) -> None:
    registered = region(file)
    other = file.with_name(f"{file.name}.new")
    other.write_bytes(bytes(100))
    other.replace(file)
    with pytest.raises(Unavailable, match="Unable to open shared memory region"):
        opened(registered).read(Region("r", 0, 1), memoryview(bytearray(1)))


def test_a_link_is_not_followed(file: Path) -> None:
    registered = region(file)
    moved = file.with_name(f"{file.name}.moved")
    file.rename(moved)
    file.symlink_to(moved)
    try:
        with pytest.raises(Unavailable):
            opened(registered).read(Region("r", 0, 1), memoryview(bytearray(1)))
    finally:
        moved.unlink()


def test_a_region_that_is_there_already_stays_open_when_others_come(file: Path) -> None:
    regions = opened(region(file))
    file.unlink()  # its client may do so as soon as it is registered
    file.write_bytes(bytes(10))
    regions.apply(True, (region_of(regions), region(file, 0, 5, "s")))
    into = bytearray(1)
    regions.read(Region("r", 0, 1), memoryview(into))
    assert into == b"\x0a"
    regions.apply(True, ())
    with pytest.raises(NotFound):
        regions.read(Region("r", 0, 1), memoryview(into))


def region_of(regions: Regions) -> SharedRegion:
    return regions._open["r"].region


def test_files_are_closed_when_nobody_uses_them(file: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    regions = opened(region(file), region(file, name="s"))
    assert len(os.listdir("/proc/self/fd")) == before + 2
    regions.apply(True, ())
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_is_read_while_it_is_not_allowed(file: Path) -> None:
    regions = opened(region(file))
    regions.apply(False, (region(file),))
    with pytest.raises(Unsupported, match="Client shared memory is disabled"):
        regions.read(Region("r", 0, 1), memoryview(bytearray(1)))
