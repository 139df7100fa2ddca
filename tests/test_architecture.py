"""The never-arrows of serving/README.md that import-linter cannot say: what may be imported where, and names that say nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "serving"
FILES = sorted(PACKAGE.rglob("*.py"))

# Third-party or standard module → the places that may import it.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "ray": ("cluster/",),
    "torch": ("models/",),
    "onnxruntime": ("models/onnx.py",),
    "safetensors": ("models/",),
    "fastapi": (
        "control/api.py",
        "control/record_api.py",
        "control/plan_api.py",
        "control/approval_api.py",
        "control/keys_api.py",
        "control/backup_api.py",
        "control/author.py",
    ),
    "uvicorn": ("control/",),
    "httpx": ("cli/", "bench/", "control/webhooks.py"),
    "sqlalchemy": ("control/",),
    "alembic": ("control/migrations/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "yaml": ("spec/", "bench/"),
    "pydantic": (
        "spec/",
        "control/api.py",
        "control/record_api.py",
        "control/plan_api.py",
        "control/backup_api.py",
        "control/approval_api.py",
        "control/keys_api.py",
        "control/order.py",
        "control/soundness.py",
        "bench/",
    ),
    "jinja2": ("bench/report/",),
    "jwt": ("access/",),
    "cryptography": ("cli/",),
    "hpack": ("gateway/http2_table.py", "bench/"),
    "httptools": ("gateway/", "bench/"),
    "prometheus_client": ("edge/",),
    "re2": ("routing/",),
    "tritonclient": ("bench/",),
    "pickle": ("bench/",),  # between the load tester and the processes that it starts
    "cloudpickle": (),
}

# Rooms that decide: no clock, no chance, no loop, no files, no logger.
PURE = (
    "protocol/",
    "wire/frame.py",
    "routing/",
    "plan/",
    "batching/queue.py",
    "batching/stack.py",
    "batching/sequences.py",
    "inference.py",
    "tensor.py",
    "sequence.py",
    "access/",
)
IMPURE = {"time", "random", "asyncio", "logging", "socket", "threading", "os", "pathlib"}
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc", "constants"}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_library_is_imported_only_in_its_room(path: Path) -> None:
    wrong = {name for name in imports(path) if name in ONLY_IN and not place(path).startswith(ONLY_IN[name] or "-")}
    assert not wrong, f"{place(path)} imports {wrong}"


@pytest.mark.parametrize("path", [f for f in FILES if place(f).startswith(PURE)], ids=place)
def test_a_room_that_decides_has_no_effects(path: Path) -> None:
    assert not imports(path) & IMPURE


@pytest.mark.parametrize("path", FILES, ids=place)
def test_no_import_is_hidden(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ast.walk(node):
                assert not isinstance(inner, ast.Import | ast.ImportFrom), f"{place(path)}:{inner.lineno} imports inside a function"
        if isinstance(node, ast.Name):
            assert node.id != "TYPE_CHECKING", f"{place(path)} hides an import behind TYPE_CHECKING"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_file_has_a_name_that_says_something(path: Path) -> None:
    assert path.stem not in EMPTY_NAMES
