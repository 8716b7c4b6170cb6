"""Which package may import which: proto <- engine <- {primary, replica} <- d1server.

Within d1server: access <- insights, and transfers beside them; HTTP is above all three.

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

# Of d1server's own packages: what each may import of the others, by prefix.
ERRORS = "d1server.web.errors"  # the one table of HTTP statuses
MAY_IMPORT_WITHIN: dict[str, tuple[str, ...]] = {
    "access": (ERRORS,),
    "transfers": (ERRORS,),
    "insights": ("d1server.access", ERRORS),
}
PACKAGES_WITHIN = (*MAY_IMPORT_WITHIN, "web", "openapi", "cli")

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


def offences_within(package: str, tree: ast.AST, where: str) -> list[str]:
    banned = tuple(f"d1server.{other}" for other in PACKAGES_WITHIN if other != package)
    return [
        f"{where}:{node.lineno} imports {node.module}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module is not None
        if node.module.startswith(banned) and not node.module.startswith(MAY_IMPORT_WITHIN[package])
    ]


@pytest.mark.parametrize("package", MAY_IMPORT_WITHIN)
def test_package_of_the_server_imports_only_in_its_direction(package: str) -> None:
    found = []
    for path in sorted((ROOT / "d1server" / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += offences_within(package, tree, str(path.relative_to(ROOT)))
    assert not found, "\n" + "\n".join(found)


def test_wrong_direction_is_found_inside_a_function() -> None:
    tree = ast.parse("def f():\n    from replica.waiter import TokenWaiter\n")
    assert offences("primary", tree, "primary/x.py") == ["primary/x.py:2 imports replica"]
    assert offences("d1server", tree, "d1server/x.py") == []
    tree = ast.parse("def f():\n    from d1server.transfers.signing import UrlSigner\n")
    assert offences_within("access", tree, "x.py") == ["x.py:2 imports d1server.transfers.signing"]
    assert offences_within("transfers", tree, "x.py") == []
