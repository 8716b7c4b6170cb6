"""The numbers and names of CONTRIBUTING.md, checked on every Python file here.

A rule is a function from one parsed file to its offences, so a failure lists every place at
once. The rules look at syntax only: they run without importing anything.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("proto", "engine", "primary", "replica", "d1server", "d1client")
FOLDERS = (*PACKAGES, "tests", "bench", "examples")

FILE_LINES_MAX = 700
FUNCTION_LINES_MAX = 70
TEST_SLEEP_S_MAX = 1.0

# Such a name says nothing about what is inside, so everything ends up inside.
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "core", "misc", "shared"}
EMPTY_SUFFIXES = ("Manager", "Helper", "Util", "Utils")
LEFTOVERS = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file, read and parsed once for all rules."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.path.parts[0]

    @property
    def is_product(self) -> bool:
        return self.package in PACKAGES

    def functions(self) -> Iterator[FunctionNode]:
        for node in ast.walk(self.tree):
            if isinstance(node, FunctionNode):
                yield node


def read_sources() -> list[SourceFile]:
    """Return every Python file of this repository's own folders."""
    files = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "node_modules" in path.parts:
                continue
            text = path.read_text(encoding="utf-8")
            files.append(SourceFile(path.relative_to(ROOT), text, ast.parse(text, str(path))))
    return files


SOURCES = read_sources()
Rule = Callable[[SourceFile], Iterator[str]]


def has_short_files(source: SourceFile) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"{source.path}: {lines} lines, at most {FILE_LINES_MAX}"


def has_short_functions(source: SourceFile) -> Iterator[str]:
    for function in source.functions():
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield f"{source.path}:{function.lineno} {function.name}: {lines} lines"


def has_module_docstring(source: SourceFile) -> Iterator[str]:
    if source.text.strip() and not ast.get_docstring(source.tree):
        yield f"{source.path}: no module docstring"


def has_public_docstrings(source: SourceFile) -> Iterator[str]:
    if not source.is_product:
        return
    for node in source.tree.body:
        if not isinstance(node, FunctionNode | ast.ClassDef):
            continue
        if not node.name.startswith("_") and not ast.get_docstring(node):
            yield f"{source.path}:{node.lineno} {node.name}: no docstring"


def has_no_leftovers(source: SourceFile) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), start=1):
        if LEFTOVERS.search(line):
            yield f"{source.path}:{number} {line.strip()}"


def swallows_no_error(source: SourceFile) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        name = node.type.id if isinstance(node.type, ast.Name) else None
        is_broad = node.type is None or name in ("Exception", "BaseException")
        if is_broad and all(isinstance(step, ast.Pass | ast.Continue) for step in node.body):
            yield f"{source.path}:{node.lineno} swallows every error"


def has_telling_names(source: SourceFile) -> Iterator[str]:
    if source.path.stem in EMPTY_NAMES:
        yield f"{source.path}: the name says nothing"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef) and node.name.endswith(EMPTY_SUFFIXES):
            yield f"{source.path}:{node.lineno} class {node.name}: the name says nothing"


def shadows_no_standard_module(source: SourceFile) -> Iterator[str]:
    for part in (*source.path.parts[:-1], source.path.stem):
        if part in sys.stdlib_module_names:
            yield f"{source.path}: {part} is a module of the standard library"


def sleeps_briefly(source: SourceFile) -> Iterator[str]:
    if source.package != "tests":
        return
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        function, wait = node.func, node.args[0]
        name = function.attr if isinstance(function, ast.Attribute) else None
        if name != "sleep" or not isinstance(wait, ast.Constant):
            continue
        if isinstance(wait.value, int | float) and wait.value >= TEST_SLEEP_S_MAX:
            yield f"{source.path}:{node.lineno} sleeps {wait.value} s; wait for the event instead"


@pytest.mark.parametrize(
    "rule",
    [
        has_short_files,
        has_short_functions,
        has_module_docstring,
        has_public_docstrings,
        has_no_leftovers,
        swallows_no_error,
        has_telling_names,
        shadows_no_standard_module,
        sleeps_briefly,
    ],
    ids=lambda rule: rule.__name__,
)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    offences = [offence for source in SOURCES for offence in rule(source)]
    assert not offences, "\n" + "\n".join(offences)


BAD_TEXT = """
import time
class BlobManager: pass
def open_blob():
    time.sleep(2)
    try:
        pass
    except Exception:
        pass
"""


def test_rules_find_what_they_look_for() -> None:
    """A rule that finds nothing anywhere would pass for ever."""
    bad = SourceFile(Path("tests/queue.py"), BAD_TEXT, ast.parse(BAD_TEXT))
    bad_product = SourceFile(Path("engine/utils.py"), BAD_TEXT, ast.parse(BAD_TEXT))
    long = SourceFile(Path("engine/log.py"), "#\n" * 701, ast.parse("def f():\n" + "  1\n" * 70))
    assert list(sleeps_briefly(bad))
    assert list(swallows_no_error(bad))
    assert list(shadows_no_standard_module(bad))
    assert len(list(has_telling_names(bad_product))) == 2
    assert len(list(has_public_docstrings(bad_product))) == 2
    assert list(has_module_docstring(bad))
    assert list(has_short_files(long))
    assert list(has_short_functions(long))
    assert LEFTOVERS.search("# TO" + "DO: later")
