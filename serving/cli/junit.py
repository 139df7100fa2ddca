"""JUnit XML, for CI systems that show test results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from serving.cli.output import fail

Case = tuple[str, str]
"""A name, and what failed in it; "" where nothing did."""


def write_junit(file: Path, suite: str, cases: Sequence[Case]) -> None:
    """Write one suite. Ends the command with 1 where the file cannot be written."""
    failures = sum(bool(failure) for _, failure in cases)
    root = ElementTree.Element("testsuites")
    top = ElementTree.SubElement(root, "testsuite", name=suite, tests=str(len(cases)), failures=str(failures), errors="0")
    for name, failure in cases:
        case = ElementTree.SubElement(top, "testcase", classname=suite, name=_clean(name))
        if failure:
            ElementTree.SubElement(case, "failure", message=_clean(failure)).text = _clean(failure)
    try:
        file.write_bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
    except OSError as error:
        fail(f"{file}: {error.strerror}")


def _clean(text: str) -> str:
    """Return text without the characters that XML cannot hold."""
    return "".join(c if c in "\t\n" or (c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff") else "?" for c in text)
