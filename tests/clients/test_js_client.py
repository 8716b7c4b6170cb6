"""`clients/js`: its own tests with Node's runner, and its types against Cloudflare's."""

import json
from pathlib import Path

import pytest

from tests.clients.nodes import Nodes
from tests.clients.programs import (
    CLIENTS,
    EXAMPLES,
    JS_CLIENT,
    node_programs,
    program,
    run,
    run_node_tests,
)


@pytest.mark.parametrize("node", node_programs(), ids=lambda node: str(node.parent))
def test_its_own_tests_pass(nodes: Nodes, node: Path) -> None:
    paths = sorted((JS_CLIENT / "test").glob("*.test.js"))
    run_node_tests(*paths, env=nodes.env, node=node, count_min=30)


def test_types_are_those_of_the_binding() -> None:
    """The declared object is accepted where a Worker's `D1Database` is, by the real compiler."""
    run(program("tsc", EXAMPLES), "--project", CLIENTS / "tsconfig.json")


def test_it_depends_on_nothing() -> None:
    package = json.loads((JS_CLIENT / "package.json").read_text())
    assert not package.keys() & {"dependencies", "peerDependencies", "optionalDependencies"}
