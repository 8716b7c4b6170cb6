"""The one table of HTTP statuses: what a fault is answered with.

Clients decide by status and by `x-should-retry`: they resend 408, 409, 429 and 5xx,
writes too, so an SQL error is always a 400, and `x-should-retry: false` stands wherever
a write may already have been done.
"""

import enum
import logging
import secrets
from typing import Final, NamedTuple

from d1server.query import Answer
from proto.api import encode_error
from proto.errors import BookmarkInvalid, RequestInvalid

logger = logging.getLogger(__name__)


class Refusal(NamedTuple):
    """How one fault looks over HTTP."""

    status: int
    code: int  # of D1's error object
    should_retry: bool | None = None
    retry_after_s: int | None = None


class Fault(enum.Enum):
    """Everything that a request can be refused for."""

    REQUEST_INVALID = "the body, a header or the path is not what we take"
    SQL_REFUSED = "SQLite or a limit said no"
    BOOKMARK_FOREIGN = "a bookmark of another database, another history or the future"
    NOT_ADMITTED = "no live access token came with the request"
    NOT_ADMITTED_OFTEN = "the same, from an address that has been told so many times"
    FORBIDDEN = "the token is live, and not for this"
    DATABASE_EXISTS = "the name is taken"
    URL_REFUSED = "a signed URL that is forged or too old"
    DATABASE_UNKNOWN = "no database has this name"
    ROUTE_UNKNOWN = "nothing is served at this path"
    METHOD_WRONG = "this path has other methods"
    REQUEST_SLOW = "the bytes of the request did not come in time"
    BODY_TOO_LARGE = "more bytes than the node takes"
    EXPECTATION_UNKNOWN = "an Expect header that is not 100-continue"
    READ_LATE = "the bookmark did not arrive in time, and the request wants an error then"
    OVERLOADED = "a bound of this node is reached; nothing was done"
    DISK_FULL = "no room for a write; nothing was done"
    PRIMARY_AWAY = "surely not done: there was nobody to do it"
    OUTCOME_UNKNOWN = "may have been done: only with an idempotency key is it safe to repeat"
    FENCED = "the commit log failed: the database takes no writes until it is rebuilt"
    STOPPING = "this node goes down"
    INTERNAL = "our bug; the log has it under the reference"


REFUSALS: Final = {
    Fault.REQUEST_INVALID: Refusal(400, 7400),
    Fault.SQL_REFUSED: Refusal(400, 7500),
    Fault.BOOKMARK_FOREIGN: Refusal(400, 7400),
    Fault.NOT_ADMITTED: Refusal(401, 10000),
    Fault.NOT_ADMITTED_OFTEN: Refusal(429, 10000, should_retry=False),
    Fault.FORBIDDEN: Refusal(403, 7403),
    Fault.DATABASE_EXISTS: Refusal(400, 7502),
    Fault.URL_REFUSED: Refusal(403, 7403),
    Fault.DATABASE_UNKNOWN: Refusal(404, 7404),
    Fault.ROUTE_UNKNOWN: Refusal(404, 7404),
    Fault.METHOD_WRONG: Refusal(405, 7405),
    Fault.REQUEST_SLOW: Refusal(408, 7408, should_retry=True),
    Fault.BODY_TOO_LARGE: Refusal(413, 7413),
    Fault.EXPECTATION_UNKNOWN: Refusal(417, 7400),
    Fault.READ_LATE: Refusal(503, 7500, should_retry=True, retry_after_s=1),
    Fault.OVERLOADED: Refusal(503, 7500, should_retry=True, retry_after_s=1),
    Fault.DISK_FULL: Refusal(503, 7500, should_retry=True, retry_after_s=5),
    Fault.PRIMARY_AWAY: Refusal(503, 7500, should_retry=True, retry_after_s=1),
    Fault.OUTCOME_UNKNOWN: Refusal(503, 7500, should_retry=False),
    Fault.FENCED: Refusal(503, 7500, should_retry=False),
    Fault.STOPPING: Refusal(503, 7500, should_retry=True, retry_after_s=1),
    Fault.INTERNAL: Refusal(500, 7500, should_retry=False),
}


def refuse(fault: Fault, message: str, bookmark: str | None = None) -> Answer:
    """Answer a fault; `message` says what happened and what to do."""
    status, code, should_retry, retry_after_s = REFUSALS[fault]
    return Answer(status, encode_error(code, message), bookmark, should_retry, retry_after_s)


def answer_exception(exc: Exception) -> Answer:
    """Answer what decoding or running a request raised.

    Only `RequestInvalid` and `BookmarkInvalid` are the client's; the node answers its own
    refusals as an `Answer`, so anything else is a bug, told to the log and not to the client.
    """
    if isinstance(exc, RequestInvalid | BookmarkInvalid):
        return refuse(Fault.REQUEST_INVALID, str(exc))
    reference = secrets.token_hex(8)
    logger.error("unexpected error, reference=%s", reference, exc_info=exc)
    return refuse(Fault.INTERNAL, f"internal error; reference = {reference}")
