"""What the engine and the two sides raise, as answers to the client."""

from typing import Final

from d1server.query import Answer
from d1server.web.errors import Fault, answer_exception, refuse
from engine.errors import (
    DatabaseClosed,
    DatabaseDamaged,
    DeadlineExceeded,
    DiskFull,
    LogFailed,
    StatementRefused,
)
from engine.ondemand import Retired
from primary.errors import DatabaseStopped, KeyReused, Overloaded, WriteFenced, WriteUnknown
from proto.api import encode_error
from replica.errors import ForwardFailed, OutcomeUnknown, TooManyWaiters

_FAULTS: Final[tuple[tuple[type[Exception], Fault], ...]] = (
    (DeadlineExceeded, Fault.SQL_REFUSED),
    (KeyReused, Fault.REQUEST_INVALID),
    (Overloaded, Fault.OVERLOADED),
    (TooManyWaiters, Fault.OVERLOADED),
    (WriteFenced, Fault.STOPPING),
    (DatabaseClosed, Fault.STOPPING),
    (WriteUnknown, Fault.OUTCOME_UNKNOWN),
    (LogFailed, Fault.OUTCOME_UNKNOWN),
    (DatabaseStopped, Fault.FENCED),
    (DatabaseDamaged, Fault.FENCED),
    (DiskFull, Fault.DISK_FULL),
    (ForwardFailed, Fault.PRIMARY_AWAY),
    (OutcomeUnknown, Fault.OUTCOME_UNKNOWN),
    (Retired, Fault.DATABASE_UNKNOWN),
)


def answer_refusal(exc: Exception, bookmark: str | None = None) -> Answer:
    """The answer for what running a request raised; an unknown exception is our bug."""
    if isinstance(exc, StatementRefused):
        answer = refuse(Fault.SQL_REFUSED, exc.message, bookmark)
        answer.body = encode_error(7500, exc.message, exc.hint, exc.statement)
        return answer
    for kind, fault in _FAULTS:
        if isinstance(exc, kind):
            return refuse(fault, str(exc), bookmark)
    return answer_exception(exc)


def unknown_database(name: str) -> Answer:
    """The answer for a name that no database has."""
    return refuse(
        Fault.DATABASE_UNKNOWN,
        f"there is no database named {name!r}; create it with POST /db or `d1server db create`",
    )
