"""Whether a text of SQL is surely a read, so that sending it twice can do no harm.

The client has no SQL parser and needs none: a wrong "no" costs a retry, a wrong "yes"
could write twice, so every doubt is a no. A statement is surely a read when its first
word is SELECT, EXPLAIN or WITH (D1's own rule for retries), it is the only statement
of its text, and, for WITH, no word of the text could begin a write.
"""

import re

# What may hide a keyword or a semicolon. The last alternative catches a quote or a comment
# that never ends: such a text is no sure read.
OPAQUE = re.compile(
    r"""
      '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | `(?:[^`]|``)*`
    | \[[^\]]*\]
    | --[^\n]*(?:\n|\Z)
    | /\*.*?\*/
    | (?P<open>['"`\[]|/\*)
    """,
    re.VERBOSE | re.DOTALL,
)
FIRST_WORD = re.compile(r"\s*([A-Za-z]+)")
WRITING_WORD = re.compile(r"\b(?:INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
READING_WORDS = frozenset({"SELECT", "EXPLAIN", "WITH"})


def is_surely_read(sql: str) -> bool:
    """Tell whether `sql` is one statement that cannot write; every doubt is a no."""
    if any(match["open"] for match in OPAQUE.finditer(sql)):
        return False
    bare = OPAQUE.sub(" ", sql).rstrip("; \t\r\n")
    first = FIRST_WORD.match(bare)
    if ";" in bare or first is None or first[1].upper() not in READING_WORDS:
        return False
    return first[1].upper() != "WITH" or WRITING_WORD.search(bare) is None
