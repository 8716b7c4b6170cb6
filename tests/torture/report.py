"""What a run of the torture came to, for people while it goes on and as one line of JSON."""

import platform
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import msgspec

import d1server
from tests.torture.checker import Rule, Violation, check
from tests.torture.cluster import Differs
from tests.torture.history import History, Outcome, Write, write_jsonl

SHOWN_MAX = 10


@dataclass(slots=True)
class Report:
    """The figures of a run; empty `violations` mean that every promise was kept."""

    seed: int
    folder: Path  # of this run; kept if anything was violated
    started: float = field(default_factory=time.monotonic)
    kills: int = 0
    pauses: int = 0
    writes_acked: int = 0
    writes_unknown: int = 0
    reads: int = 0
    lost: int = 0
    differing: int = 0
    files_compared: int = 0
    violations: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Show progress, with the time since the start."""
        print(f"[{time.monotonic() - self.started:7.1f} s] {text}", flush=True)

    def skip(self, what: str) -> None:
        """Note what was not run, and why."""
        self.skipped.append(what)
        self.say(f"skipped: {what}")

    def add_history(self, history: History, name: str) -> list[Violation]:
        """Check a history, count what is in it, and keep it if it breaks a promise."""
        self.add_events(history)
        violations = check(history)
        self.lost += sum(one.rule is Rule.LOST for one in violations)
        if violations:
            self.add_violations(map(str, violations), name)
            write_jsonl(history, self.folder / f"{name}.jsonl")
        return violations

    def add_events(self, history: History) -> None:
        """Count the events of a history."""
        for event in history.events:
            if not isinstance(event, Write):
                self.reads += 1
            elif event.outcome is Outcome.OK:
                self.writes_acked += 1
            elif event.outcome is Outcome.INFO:
                self.writes_unknown += 1

    def add_trouble(self, trouble: Exception, where: str) -> None:
        """Note that a node or the cluster misbehaved."""
        self.differing += isinstance(trouble, Differs)
        self.add_violations([str(trouble)], where)

    def add_violations(self, texts: Iterable[str], where: str) -> None:
        """Note broken promises and show the first ones."""
        lines = [f"{where}: {text}" for text in texts]
        self.violations += lines
        for line in lines[:SHOWN_MAX]:
            self.say(f"VIOLATION {line}")

    def line(self, *, is_kept: bool) -> str:
        """The summary as one line of JSON; it names the folder if that `is_kept`."""
        fields: dict[str, object] = {
            "seed": self.seed,
            "kills": self.kills,
            "pauses": self.pauses,
            "writes_acked": self.writes_acked,
            "writes_unknown": self.writes_unknown,
            "reads": self.reads,
            "lost": self.lost,
            "differing": self.differing,
            "files_compared": self.files_compared,
            "violations": len(self.violations),
            "skipped": self.skipped,
            "secs": round(time.monotonic() - self.started, 1),
            "versions": versions(),
        }
        if is_kept:
            fields["kept"] = str(self.folder)
        return msgspec.json.encode(fields).decode()


def versions() -> dict[str, str]:
    """The versions that matter to a result."""
    names = ("aiohttp", "apsw", "uvloop")
    return {
        "d1server": d1server.__version__,
        "python": platform.python_version(),
        "kernel": platform.release() if sys.platform == "linux" else sys.platform,
        **{name: version(name) for name in names},
    }
