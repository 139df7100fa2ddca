"""The server describes itself: what its documents say is there is there, with the methods that they say."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from serving import VERSION
from serving.protocol.openapi import PATHS

from .rig import DataPath

NAMES = {"{model}": "pair", "{version}": "1", "{region}": "r"}
CALLS = [(path, method) for path, item in PATHS.items() for method in ("get", "post") if method in item]


@pytest.mark.parametrize(("where", "method"), CALLS)
def test_every_call_of_the_document_is_there(path: DataPath, where: str, method: str) -> None:
    for name, value in NAMES.items():
        where = where.replace(name, value)
    with httpx.Client(base_url=f"http://{path.rest}") as client:
        answer = client.request(method.upper(), f"{where}?a=b")
        assert answer.status_code not in (404, 405) or answer.json()["error"] not in ("Not Found", "Method Not Allowed")
        assert answer.status_code not in (500, 503), answer.text
        assert client.request("DELETE", where).status_code == 405


def test_the_document_is_whole(path: DataPath) -> None:
    document: dict[str, Any] = httpx.get(f"http://{path.rest}/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert document["info"]["version"] == VERSION
    text = httpx.get(f"http://{path.rest}/openapi.json").text
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in document["components"]["schemas"]
    for where, item in document["paths"].items():
        declared = {p["name"] for p in item.get("parameters", ())}
        assert declared == set(re.findall(r"{(\w+)}", where))
        for method in ("get", "post"):
            assert item.get(method) is None or {"200", "default"} <= item[method]["responses"].keys()


def test_the_page_needs_nobody_else(path: DataPath) -> None:
    answer = httpx.get(f"http://{path.rest}/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "openapi.json" in answer.text
    assert not re.search(r"(?:src|href)=|https?://|@import|url\(", answer.text)


def test_metadata_names_what_is_there(path: DataPath) -> None:
    extensions = httpx.get(f"http://{path.rest}/v2/").json()["extensions"]
    assert {"binary_tensor_data", "classification", "model_configuration", "trace", "logging", "statistics"} <= set(extensions)
    assert len(set(extensions)) == len(extensions)
    assert "system_shared_memory" not in extensions
