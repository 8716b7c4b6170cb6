"""The examples: what belongs to each, and how its applications are started.

Nothing here runs a server; `__main__.py` does, and so do the tests.
"""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

EXAMPLES: Final = Path(__file__).resolve().parent
SHOP: Final = EXAMPLES / "fast-commerce"
HOST: Final = "127.0.0.1"


class NotRunnable(Exception):
    """An application cannot be started; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an application runs: with which Python, at which node, on which port."""

    python: str
    node: str  # host:port
    port: int


@dataclass(frozen=True, slots=True)
class App:
    """An application of an example."""

    name: str
    command: Callable[[Place], tuple[str, ...]]
    node: int  # which of the three nodes it asks
    path: str = "/"  # what answers 200 when it is up


@dataclass(frozen=True, slots=True)
class Example:
    """What to put on the nodes, and what to run there."""

    schema: Path | None  # loaded into a database of the example's name
    apps: tuple[App, ...]


def worker(folder: Path, *, node: int, path: str = "/") -> App:
    """A Worker: bundled by esbuild, run by workerd with its database at a node."""

    def command(place: Place) -> tuple[str, ...]:
        bundle(folder)
        flags = [f"--external-addr=d1={place.node}", f"--socket-addr=http={HOST}:{place.port}"]
        if (public := folder.parent / "public").exists():
            flags.append(f"--directory-path=public={public}")
        return (str(workerd()), "serve", *flags, str(folder / "config.capnp"))

    return App("worker", command, node, path)


def python_app(script: Path, *, node: int) -> App:
    """A Python application that takes `--node` and `--port`."""

    def command(place: Place) -> tuple[str, ...]:
        node = ("--node", f"http://{place.node}")
        return (place.python, str(script), *node, "--port", str(place.port))

    return App("python", command, node)


CATALOG: Final = {
    "fast-commerce": Example(
        SHOP / "schema.sql",
        (python_app(SHOP / "python" / "shop_app.py", node=1), worker(SHOP / "worker", node=2)),
    ),
    "orders": Example(None, (worker(EXAMPLES / "orders", node=1, path="/api/orders"),)),
}


def workerd() -> Path:
    """Return workerd itself, not npm's script around it, which does not pass signals on."""
    found = sorted((EXAMPLES / "node_modules" / "@cloudflare").glob("workerd-*/bin/workerd"))
    if not found:
        raise NotRunnable("workerd is missing: run `make example`, or `npm install` in examples/")
    return found[0]


def bundle(folder: Path) -> None:
    """Make one JavaScript module of a Worker's TypeScript."""
    output = f"--outfile={folder / 'dist' / 'worker.js'}"
    flags = ("--bundle", "--format=esm", "--log-level=warning", output)
    esbuild = EXAMPLES / "node_modules" / ".bin" / "esbuild"
    try:
        subprocess.run([esbuild, folder / "index.ts", *flags], check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise NotRunnable(f"cannot bundle {folder / 'index.ts'}: {exc}") from exc
