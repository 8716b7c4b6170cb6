"""JSON bodies of requests: decoded to their type, or refused with what to send instead. Pure."""

from typing import TypeVar

import msgspec

from proto.errors import RequestInvalid

Body = TypeVar("Body")


def decode_body(body: bytes, form: type[Body], wanted: str) -> Body:
    """The body as a `form`. Raises `RequestInvalid`: "send `wanted`", whatever the bytes are."""
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise RequestInvalid(f"send {wanted}: {exc}") from exc
