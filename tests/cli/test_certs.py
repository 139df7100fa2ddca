"""`serving certs`: what it makes is taken by others, and nothing is overwritten that others trust."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.cli import app


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["certs", *words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run("init", "--dir", str(tmp_path / "c"))
    return tmp_path / "c"


def openssl(*words: object) -> str:
    return subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=True).stdout


def test_openssl_takes_what_it_makes(folder: Path) -> None:
    run("issue", "server", "--dir", str(folder), "--host", "ml.example.com", "--host", "10.0.0.1")
    run("issue", "ann", "--dir", str(folder), "--client")
    for name, purpose in (("server", "sslserver"), ("ann", "sslclient")):
        assert "OK" in openssl("verify", "-x509_strict", "-CAfile", folder / "ca.pem", "-purpose", purpose, folder / f"{name}.pem")
    text = openssl("x509", "-in", folder / "server.pem", "-noout", "-text")
    assert "DNS:ml.example.com, IP Address:10.0.0.1" in text
    with pytest.raises(subprocess.CalledProcessError):
        openssl("verify", "-CAfile", folder / "ca.pem", "-purpose", "sslserver", folder / "ann.pem")


def test_keys_are_private(folder: Path) -> None:
    run("issue", "server", "--dir", str(folder))
    assert [(folder / f).stat().st_mode & 0o777 for f in ("ca.key", "server.key")] == [0o600, 0o600]


def test_a_certificate_is_renewed_and_a_ca_is_not(folder: Path) -> None:
    run("issue", "server", "--dir", str(folder))
    first, ca = (folder / "server.pem").read_bytes(), (folder / "ca.pem").read_bytes()
    run("issue", "server", "--dir", str(folder))
    assert (folder / "server.pem").read_bytes() != first
    assert "there is a CA" in run("init", "--dir", str(folder), code=1)
    assert (folder / "ca.pem").read_bytes() == ca


@pytest.mark.parametrize("name", ["ca", "../x", ".hidden", "a/b"])
def test_names_that_are_no_files_are_refused(folder: Path, name: str) -> None:
    assert "cannot be the name" in run("issue", name, "--dir", str(folder), code=1)


def test_without_a_ca_it_says_how_to_make_one(tmp_path: Path) -> None:
    assert "serving certs init" in run("issue", "server", "--dir", str(tmp_path), code=1)
