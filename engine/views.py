"""How often SQLite would copy the views of a database while it prepares one statement.

A view is copied into the place of each of its uses, and so are the views that it uses. Ten
views, each of which uses the one before it twice, are a thousand copies; thirty would keep SQLite
busy for hours, at a point where it looks at no clock and at no limit. So a view that would be too
many copies is refused when it is made.

Pure, and too careful rather than too bold: a name is taken for a use if it stands where a table may
stand. The text comes from `sqlite_schema`, so it is SQL that SQLite has taken.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

COPIES_MAX: Final = 500  # a tenth of a second or less to prepare; D1 has no number for it

_TOKEN: Final = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'"  # nothing of interest
    r'|(?P<name>[A-Za-z_\x80-\U0010ffff][\w$]*|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])'
    r"|(?P<mark>[.,()])",
    re.DOTALL,
)
_BEFORE_TABLE: Final = frozenset({"from", "join", "in", ",", "("})
_QUOTES: Final = '"`['


def copies(views: Mapping[str, str]) -> int:
    """The most copies that one of these views (name: its CREATE VIEW) stands for, itself included.

    Counts no further than a little above `COPIES_MAX`.
    """
    uses = {name.lower(): _uses(sql) for name, sql in views.items()}
    known: dict[str, int] = {}
    for name in _innermost_first(uses):
        used, has_common = uses[name]
        # One that is not known yet is of a circle, which SQLite refuses to go round.
        total = sum([known.get(other, 0) * count for other, count in used.items()])
        if has_common:  # a common table expression may be used as often as any name here
            total *= max(1, sum([count for other, count in used.items() if other not in uses]))
        known[name] = min(1 + total, COPIES_MAX + 1)
    return max(known.values(), default=0)


def _innermost_first(uses: Mapping[str, tuple[Counter[str], bool]]) -> list[str]:
    """The names, each behind those that it uses; those of a circle in any order."""
    order: list[str] = []
    seen: set[str] = set()
    for first in uses:
        waiting = [(first, False)]
        while waiting:
            name, is_done = waiting.pop()
            if is_done:
                order.append(name)
            elif name not in seen:
                seen.add(name)
                waiting.append((name, True))
                waiting += [(other, False) for other in uses[name][0] if other in uses]
    return order


@lru_cache(maxsize=4096)  # or each of a thousand CREATE VIEWs would read a thousand texts
def _uses(sql: str) -> tuple[Counter[str], bool]:
    """How often each name stands where a table may, and whether there is a WITH."""
    used: Counter[str] = Counter()
    has_common = False
    before, candidate = "", ""
    for token in _TOKEN.finditer(sql):
        text = token["name"] or token["mark"]
        if text is None:
            continue
        word = _plain(text)
        if candidate and text != ".":
            used[candidate] += 1
        candidate = ""
        if token["name"] and before in _BEFORE_TABLE:
            candidate = word
        elif token["name"] and before == "main.":
            used[word] += 1
        has_common = has_common or text.lower() == "with"
        before = "main." if text == "." and before == "main" else word
    if candidate:
        used[candidate] += 1
    return used, has_common


def _plain(text: str) -> str:
    return text[1:-1].lower() if text[0] in _QUOTES else text.lower()
