"""The real wrangler, in a folder and with a home of its own, pointed at one node."""

import json
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.clients.programs import CLIENTS, program, run_to_end

COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # its error texts have them even with NO_COLOR


@dataclass(frozen=True, slots=True)
class Wrangler:
    """How wrangler is called: in which folder, at which node, with which token."""

    folder: Path
    node: str
    token: str = "any"

    def at(self, node: str) -> "Wrangler":
        return replace(self, node=node)

    @property
    def env(self) -> dict[str, str]:
        """What wrangler reads from its environment."""
        return {
            "HOME": str(self.folder / "home"),
            "XDG_CONFIG_HOME": str(self.folder / "home" / ".config"),
            "CLOUDFLARE_API_BASE_URL": f"{self.node}/client/v4",
            "CLOUDFLARE_ACCOUNT_ID": "any",
            "CLOUDFLARE_API_TOKEN": self.token,
            # Its 15 MB of JavaScript are compiled once, which takes a third off every run.
            "NODE_COMPILE_CACHE": str(CLIENTS / "node_modules" / ".cache" / "node"),
        }

    def d1(self, *words: str) -> str:
        """Run `wrangler d1 ...` and return what it printed; it must succeed."""
        done = self._run(words)
        assert done.returncode == 0, done.stdout + done.stderr
        return COLOURS.sub("", done.stdout)

    def d1_json(self, *words: str) -> Any:
        """Run `wrangler d1 ... --json` and return what it printed."""
        return json.loads(self.d1(*words, "--json"))

    def refused(self, *words: str) -> str:
        """Run `wrangler d1 ...`, which must fail, and return all that it printed."""
        done = self._run(words)
        assert done.returncode == 1, done.stdout + done.stderr
        return COLOURS.sub("", done.stdout + done.stderr)

    def _run(self, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return run_to_end(program("wrangler"), "d1", *words, cwd=self.folder, env=self.env)
