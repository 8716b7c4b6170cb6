"""The statements of an SQL file, one after the other, however large the file is.

Statements end where `engine.sqltext.split` says. It wants a whole text; here it gets what
has been read so far plus a mark. If the last piece is the mark alone, everything before it
was complete; if the mark stands at the end of a longer piece, that piece is a statement
whose end has not been read yet. What is read is cut after white space, because a token that
may hold a semicolon either ends before it or goes on behind it, mark and all.

Memory: at most `STATEMENT_CHARS_MAX` and what one read adds to it.
"""

import codecs
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.sqltext import split

READ_BYTES: Final = 256 * 1024
STATEMENT_CHARS_MAX: Final = 16 * 1024 * 1024  # far beyond what any node takes
MARK: Final = "d1server_end_of_what_was_read"


class SqlFileInvalid(Exception):
    """A file that is not SQL text; `line` is where that shows."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class FileStatement:
    """One statement and where it stands in its file; both numbers begin at 1."""

    number: int
    line: int
    sql: str

    @property
    def line_last(self) -> int:
        return self.line + self.sql.count("\n")


class StatementReader:
    """Takes text in any pieces, gives the statements that are complete."""

    def __init__(self, *, statement_chars_max: int = STATEMENT_CHARS_MAX) -> None:
        self._statement_chars_max = statement_chars_max
        self._text = ""  # read, but not given
        self._line = 1  # of the first character of `_text`
        self._number = 0
        self._look_at_chars = 0  # a long statement is not looked at again before it has doubled

    @property
    def line(self) -> int:
        """The line that has been read last."""
        return self._line + self._text.count("\n")

    def feed(self, text: str) -> list[FileStatement]:
        """Return the statements that this text completes."""
        self._text += text
        if len(self._text) < self._look_at_chars:
            return []
        cut = end_of_known(self._text)
        known = self._text[:cut]
        pieces = split(known + MARK)
        if pieces and pieces[-1].endswith(MARK):
            rest = pieces[-1][: -len(MARK)]
            given = self._numbered(pieces[:-1], known)
        else:
            rest = opening_of_comment(known)
            given = self._numbered(pieces, known)
        self._line += known.count("\n") - rest.count("\n")
        self._text = rest + self._text[cut:]
        if len(self._text) > self._statement_chars_max:
            raise SqlFileInvalid(
                self._line,
                "the statement that begins here is longer than"
                f" {self._statement_chars_max} characters; is a quote left open?",
            )
        self._look_at_chars = 0 if given else min(2 * len(self._text), self._statement_chars_max)
        return given

    def finish(self) -> list[FileStatement]:
        """Return the statements that end with the file."""
        return self._numbered(split(self._text), self._text)

    def _numbered(self, pieces: Iterable[str], text: str) -> list[FileStatement]:
        given = []
        at = counted = 0
        line = self._line
        for piece in pieces:
            start = place_of(piece, text, at)
            line += text.count("\n", counted, start)
            self._number += 1
            given.append(FileStatement(self._number, line, piece))
            at, counted = start + len(piece), start
        return given


def end_of_known(text: str) -> int:
    """Return where to cut: after the last line, or after the last space if there is but one."""
    return text.rfind("\n") + 1 or max(text.rfind(space) for space in " \t\f\r") + 1


def opening_of_comment(known: str) -> str:
    """Return what stands for the comment that a text ends in."""
    return "--" if split(known + "\n" + MARK)[-1:] == (MARK,) else "/*"


def place_of(piece: str, text: str, at: int) -> int:
    """Return where a piece begins, from `at` on; a comment before it may hold the same words."""
    start = text.index(piece, at)
    while not is_between_statements(text[at:start]):
        start = text.index(piece, start + 1)
    return start


def is_between_statements(gap: str) -> bool:
    """Tell whether a statement may begin behind this text: all comments in it have ended."""
    return not gap.strip("; \t\n\f\r") or split(gap + MARK) == (MARK,)


def read_statements(path: str, on_read: Callable[[int], None]) -> Iterator[FileStatement]:
    """Yield the statements of a file in UTF-8; "-" is standard input.

    `on_read` is told how many bytes were read since it was told last.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    reader = StatementReader()
    with nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as file:
        while data := file.read(READ_BYTES):
            yield from reader.feed(decoded(decoder, data, reader))
            on_read(len(data))
    decoded(decoder, b"", reader, is_last=True)
    yield from reader.finish()


def decoded(
    decoder: codecs.IncrementalDecoder, data: bytes, reader: StatementReader, is_last: bool = False
) -> str:
    """Return bytes as text, or say on which line they are none."""
    try:
        return decoder.decode(data, is_last)
    except UnicodeDecodeError as exc:
        line = reader.line + exc.object[: exc.start].count(b"\n")
        raise SqlFileInvalid(line, "not UTF-8 text; convert the file first") from exc
