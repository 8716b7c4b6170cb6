"""Errors of the write side, one class per reaction of the catcher.

PrimaryError
Overloaded        too many writes wait: answer 429; nothing was done, a retry may help
WriteFenced       the log could not take commits: answer 503; this write is not kept
WriteUnknown      the log failed under this write: answer 503; it may or may not be kept
DatabaseStopped   the database cannot be opened: answer 503, tell the operator
KeyReused         an idempotency key came again with another request: answer 400
"""


class PrimaryError(Exception):
    """The primary cannot do what was asked."""


class Overloaded(PrimaryError):
    """The queue of writes is full; the write was not started."""


class WriteFenced(PrimaryError):
    """The database takes no writes until its log works again; the write was not started."""


class WriteUnknown(PrimaryError):
    """The write was executed, and then the log failed: it is not acknowledged."""


class KeyReused(PrimaryError):
    """The idempotency key belongs to a request with other content."""


class DatabaseStopped(PrimaryError):
    """The database cannot be opened or rebuilt; the message says why."""
