"""Errors of the client, one class per reaction of the catcher.

D1Error
    D1Refused          the request is wrong as it stands: correct it, retrying cannot help
        D1TypeError    ... found before anything was sent: a value that SQL cannot hold
    D1Unavailable      surely not done: the same request may be sent again, later
    D1OutcomeUnknown   done or not done, nobody can tell from here: look at the data before
                       repeating, or repeat with the same idempotency key
"""


class D1Error(Exception):
    """Anything the client reports; `code` is D1's number, 0 where no server gave one."""

    def __init__(self, message: str, *, code: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class D1Refused(D1Error):
    """The server (or this client, before sending) refused the request: correct it."""


class D1TypeError(D1Refused):
    """A parameter has a type or a value that cannot be bound; nothing was sent."""


class D1Unavailable(D1Error):
    """The request was surely not executed and every allowed retry is used up."""


class D1OutcomeUnknown(D1Error):
    """The request was sent and its answer is lost: it may have been executed."""
