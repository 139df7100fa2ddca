"""Environment: a virtual environment of its own for a peer, with pinned versions, and this project's torch."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_PINNED = Path(__file__).parent / "pinned"


def program(peer: str, name: str = "python") -> str:
    """A program of the peer's environment."""
    return str(_home(peer) / "bin" / name)


def is_installed(peer: str) -> bool:
    """Whether the environment holds exactly what is pinned now."""
    done = _done(peer)
    return done.exists() and done.read_bytes() == _pins(peer).read_bytes()


def install(peer: str) -> None:
    """Install `pinned/PEER.txt`; nothing to do if that is there already. Raises subprocess.CalledProcessError."""
    if is_installed(peer):
        return
    home = _home(peer)
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(home)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", program(peer), "install", "-q", "--no-deps", "-r", str(_pins(peer))]
    subprocess.run(pip, check=True)
    packages = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "torch_of_the_project.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # comes last: what the peer has wins
    _done(peer).write_bytes(_pins(peer).read_bytes())


def _home(peer: str) -> Path:
    return REPOSITORY / ".venv" / "peers" / peer


def _pins(peer: str) -> Path:
    return _PINNED / f"{peer}.txt"


def _done(peer: str) -> Path:
    return _home(peer) / "installed.txt"
