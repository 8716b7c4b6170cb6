"""The recipes of `docs/clients/` run as they stand, and print what they say they print.

A recipe is what follows in one file: a block of code, then a block of text with its output, in
which `...` stands for anything. Only the addresses are replaced by those of the test's nodes.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from d1server.sample_shop import SHOP, STATEMENTS
from tests.clients.nodes import Nodes, server_python
from tests.clients.programs import CLIENTS, ROOT, node_programs, program, run

DOCS = ROOT / "docs" / "clients"
FILES = sorted(path for path in DOCS.glob("*.md") if path.name not in ("README.md", "workerd.md"))
# `prisma generate` would fetch a program that it does not use; this is Prisma's own setting.
PRISMA_ENV = {"PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true", "CHECKPOINT_DISABLE": "1"}
SCHEMA = re.compile(r"^```prisma\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(js|python|sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Recipe(NamedTuple):
    language: str
    code: str
    output: str


def read_recipes(path: Path) -> Iterator[Recipe]:
    blocks = BLOCK.findall(path.read_text(encoding="utf-8"))
    assert blocks, f"{path.name} has no recipe"
    assert len(blocks) % 2 == 0, f"{path.name}: each recipe is code and its output"
    for (language, code), (kind, output) in zip(blocks[::2], blocks[1::2], strict=True):
        assert kind == "text", f"{path.name}: code without its output"
        yield Recipe(language, code, output)


@pytest.fixture(scope="module")
def shop(nodes: Nodes) -> Nodes:
    """The sample database that `make run` makes."""
    nodes.create(SHOP)
    _, bookmark = nodes.query(SHOP, ";".join(STATEMENTS))
    nodes.wait_for(SHOP, bookmark)
    return nodes


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recipe_prints_what_it_says(shop: Nodes, path: Path, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")
    for schema in SCHEMA.findall(path.read_text(encoding="utf-8")):
        (tmp_path / "schema.prisma").write_text(schema)
        flags = ("generate", "--schema", "schema.prisma")
        run(program("prisma"), *flags, cwd=tmp_path, env=PRISMA_ENV)
    for recipe in read_recipes(path):
        code = recipe.code.replace("http://127.0.0.1:8787", shop.primary)
        code = code.replace("http://127.0.0.1:8788", shop.replica)
        python = server_python() if path.stem == "python" else Path(sys.executable)
        printed = execute(recipe.language, code, tmp_path, python)
        expected = re.escape(recipe.output.strip()).replace(re.escape("..."), ".*")
        assert re.fullmatch(expected, printed.replace("\r", "").strip(), re.DOTALL), printed


def execute(language: str, code: str, folder: Path, python: Path) -> str:
    """Run the code of a recipe and return what it printed."""
    env = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "PYTHONPATH": str(ROOT)}
    if language == "js":
        (folder / "recipe.mjs").write_text(code)
        return run(node_programs()[0], folder / "recipe.mjs", cwd=folder, env=env).stdout
    if language == "python":
        return run(python, "-c", code, cwd=folder, env=env).stdout
    return run("bash", "-euc", code, cwd=folder, env=env).stdout
