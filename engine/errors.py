"""Errors of one database, one class per reaction of the catcher.

EngineError
    StatementRefused      the caller's SQL or values are at fault: answer 400 with the message
        ResultTooLarge    the same; the answer would not fit in memory
    BudgetExceeded        the time given was not enough: run it again on a thread
    DeadlineExceeded      the request's time is over, or nobody waits any more: answer 400
    LogFailed             a commit could not be made durable: fence the database
    LogCorrupt            acknowledged commits are damaged: stop the database, tell the operator
    DatabaseDamaged       SQLite's files are damaged: stop the database, tell the operator
    PositionUnknown       not in this history: take a snapshot
    PositionTrimmed       older than the log: take a snapshot
"""


class EngineError(Exception):
    """Something that the engine reports instead of a result."""


class StatementRefused(EngineError):
    """SQL that cannot be run as it is. The message is D1's text, `hint` says what to do.

    `statement`: which of a request's several statements it is, from 0.
    """

    statement: int | None = None

    def __init__(self, message: str, hint: str = "") -> None:
        """Carry D1's text in `message`; `hint` may be empty."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class ResultTooLarge(StatementRefused):
    """A result with more bytes than one answer may hold."""


class BudgetExceeded(EngineError):
    """A statement that did not end within its time budget, and was stopped."""


class DeadlineExceeded(EngineError):
    """A request that ran into its deadline, or was stopped from outside."""


class DiskFull(EngineError):
    """A write for which the file system has no room; it was undone."""


class LogFailed(EngineError):
    """An append or a sync of the commit log that failed."""


class LogCorrupt(EngineError):
    """Acknowledged commits that cannot be read back from the log."""


class DatabaseDamaged(EngineError):
    """SQLite's own files are not what they must be."""


class DatabaseClosed(EngineError):
    """A database that was closed while somebody was about to use it."""


class PositionUnknown(EngineError):
    """A position that is not in this log's history."""


class PositionTrimmed(EngineError):
    """A position older than the oldest commit in the log."""
