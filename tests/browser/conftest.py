"""A real Chromium, and the shop on the replica of a real cluster, in both its forms."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.clients.applications import load, running_app
from tests.clients.nodes import Nodes, running_nodes

SHOTS = Path(__file__).parent / "shots"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WAIT_MS = 60_000
expect.set_options(timeout=WAIT_MS)


@dataclass(frozen=True, slots=True)
class Shop:
    """The shop in one of its forms."""

    form: str
    url: str  # at the replica
    other_url: str  # at the primary; to a browser it is the same site: cookies know no ports

    def shoot(self, page: Page, name: str) -> None:
        """Keep a picture of the page for a person to look at."""
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SHOTS / f"{self.form}-{name}.png", full_page=True)


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A primary and a replica with the shop's database."""
    with running_nodes(tmp_path_factory.mktemp("nodes")) as running:
        load(running, "fast-commerce")
        yield running


@pytest.fixture(scope="session", params=["python", "worker"])
def shop(
    request: pytest.FixtureRequest, nodes: Nodes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """The shop at both nodes, as a Python application and as a Worker."""
    form, folder = request.param, tmp_path_factory.mktemp("shop")
    with (
        running_app(nodes.replica, "fast-commerce", form, folder) as url,
        running_app(nodes.primary, "fast-commerce", form, folder) as other_url,
    ):
        yield Shop(form, url, other_url)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    path = shutil.which("chromium")
    assert path is not None, "chromium is missing: run `make test-clients`"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture
def visitor(browser: Browser) -> Iterator[BrowserContext]:
    """A visitor with no cookie yet."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT_MS)
    yield context
    context.close()


@pytest.fixture
def page(visitor: BrowserContext) -> Iterator[Page]:
    """A tab of the visitor; an error in its console fails the test."""
    tab = visitor.new_page()
    troubles: list[str] = []
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    yield tab
    assert not troubles, troubles
