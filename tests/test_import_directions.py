"""Which package may import which: proto <- engine <- {primary, replica} <- d1server.

The directions are data; imports are read from syntax, so one inside a function counts too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT: dict[str, frozenset[str]] = {
    "proto": frozenset(),
    "engine": frozenset({"proto"}),
    "primary": frozenset({"proto", "engine"}),
    "replica": frozenset({"proto", "engine"}),
    "d1server": frozenset({"proto", "engine", "primary", "replica"}),
    "d1client": frozenset({"proto"}),
}

# What a package must not reach for, and why the design says so.
NEVER: dict[str, frozenset[str]] = {
    "proto": frozenset({"asyncio", "socket", "threading", "apsw", "aiohttp"}),  # no I/O
    "engine": frozenset({"aiohttp", "socket"}),  # knows files, not the network
}
# The system's SQLite may be one with the WAL-reset bug, and must not share a file with apsw.
NEVER_ANYWHERE = frozenset({"sqlite3", "tests", "bench", "examples"})


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, top-level package) of every import; a relative import stays at home."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.partition(".")[0]


def offences(package: str, tree: ast.AST, where: str) -> list[str]:
    ours = MAY_IMPORT.keys() - {package}
    banned = (ours - MAY_IMPORT[package]) | NEVER.get(package, frozenset()) | NEVER_ANYWHERE
    return [f"{where}:{line} imports {name}" for line, name in imported(tree) if name in banned]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_in_its_direction(package: str) -> None:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += offences(package, tree, str(path.relative_to(ROOT)))
    assert not found, "\n" + "\n".join(found)


def test_wrong_direction_is_found_inside_a_function() -> None:
    tree = ast.parse("def f():\n    from replica.waiter import TokenWaiter\n")
    assert offences("primary", tree, "primary/x.py") == ["primary/x.py:2 imports replica"]
    assert offences("d1server", tree, "d1server/x.py") == []
