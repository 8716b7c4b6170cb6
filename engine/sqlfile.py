"""The statements of an SQL file, one after the other, however large the file is.

Text comes in any pieces. A statement is given when the semicolon at its end has been read;
what stands behind the last semicolon is kept and cut again together with the next piece.

Memory: at most `STATEMENT_CHARS_MAX` and what one read adds to it.
"""

import codecs
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, NamedTuple

from engine.sqltext import opening_of_comment, spans

READ_BYTES: Final = 256 * 1024
_LONG_CHARS: Final = 64 * 1024
STATEMENT_CHARS_MAX: Final = 16 * 1024 * 1024  # far beyond what any node takes


class SqlFileInvalid(Exception):
    """A file that is not SQL text; `line` is where that shows."""

    def __init__(self, line: int, message: str) -> None:
        """Carry the line."""
        super().__init__(message)
        self.line = line


class FileStatement(NamedTuple):
    """One statement and where it stands in its file; both numbers begin at 1."""

    number: int
    line: int
    sql: str

    @property
    def line_last(self) -> int:
        """The line of its last character."""
        return self.line + self.sql.count("\n")


class StatementReader:
    """Takes text in any pieces, gives the statements that are complete."""

    def __init__(self, *, statement_chars_max: int = STATEMENT_CHARS_MAX) -> None:
        """Read from the beginning; a longer statement is refused."""
        self._statement_chars_max = statement_chars_max
        self._text = ""  # read, but not given
        self._line = 1  # of the first character of `_text`
        self._number = 0
        self._look_at_chars = 0  # a long statement is not looked at again before it has doubled

    @property
    def line(self) -> int:
        """The line that has been read last."""
        return self._line + self._text.count("\n")

    @property
    def is_between(self) -> bool:
        """Nothing has been read that waits for its end."""
        return not self._text

    def feed(self, text: str) -> Iterator[FileStatement]:
        """Yield the statements that this text completes; to be taken all before the next call."""
        self._text += text
        if len(self._text) < self._look_at_chars:
            return
        before = self._number
        yield from self._cut(is_last=False)
        if len(self._text) > self._statement_chars_max:
            raise SqlFileInvalid(
                self._line,
                "the statement that begins here is longer than"
                f" {self._statement_chars_max} characters; is a quote left open?",
            )
        is_long = self._number == before and len(self._text) > _LONG_CHARS
        self._look_at_chars = min(2 * len(self._text), self._statement_chars_max) if is_long else 0

    def finish(self) -> Iterator[FileStatement]:
        """Yield the statements that end with the file."""
        yield from self._cut(is_last=True)

    def _cut(self, *, is_last: bool) -> Iterator[FileStatement]:
        """Give what is complete, keep the rest."""
        text, line, counted, rest_at = self._text, self._line, 0, 0
        for start, end in spans(text):
            if end == len(text) and not is_last:
                break
            line += text.count("\n", counted, start)
            counted = start
            self._number += 1
            yield FileStatement(self._number, line, text[start:end])
            rest_at = end
        rest = text[rest_at:]
        opening = opening_of_comment(rest)
        kept = rest if opening is None else opening
        self._line = line + text.count("\n", counted) - kept.count("\n")
        self._text = kept


def read_statements(file: BinaryIO, on_read: Callable[[int], None]) -> Iterator[FileStatement]:
    """Yield the statements of a file in UTF-8.

    `on_read` is told how many bytes were read since it was told last. Raises
    `SqlFileInvalid`, `OSError`.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    reader = StatementReader()
    while data := file.read(READ_BYTES):
        yield from reader.feed(_decoded(decoder, data, reader))
        on_read(len(data))
    _decoded(decoder, b"", reader, is_last=True)
    yield from reader.finish()


def _decoded(
    decoder: codecs.IncrementalDecoder, data: bytes, reader: StatementReader, is_last: bool = False
) -> str:
    """Return bytes as text, or say on which line they are none."""
    try:
        return decoder.decode(data, is_last)
    except UnicodeDecodeError as exc:
        line = reader.line + exc.object[: exc.start].count(b"\n")
        raise SqlFileInvalid(line, "not UTF-8 text; convert the file first") from exc
