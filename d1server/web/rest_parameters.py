"""Query parameters of D1's REST API, as the bodies of administration calls. Pure.

All raise `RequestInvalid` with the name of the parameter.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from d1server.administration import Listing, Selection
from proto.errors import RequestInvalid

_WHOLE: Final = re.compile(r"([0-9]{1,9})(?:\.0*)?", re.ASCII)  # some clients send 10.0


def read_list_parameters(pairs: Sequence[tuple[str, str]]) -> bytes:
    """Read `name`, `page` and `per_page`; what a list does not take changes nothing."""
    given = dict(pairs)
    ours = Listing()
    listing = Listing(
        given.get("name", ours.name),
        _whole("page", given["page"]) if given.get("page") else ours.page,
        _whole("per_page", given["per_page"]) if given.get("per_page") else ours.per_page,
    )
    return msgspec.json.encode(listing)


def read_fields(pairs: Sequence[tuple[str, str]]) -> bytes:
    """Read `fields`: given several times, or once with commas; empty: all."""
    texts = [value for name, value in pairs if name == "fields"]
    fields = tuple(field.strip() for text in texts for field in text.split(",") if field.strip())
    return msgspec.json.encode(Selection(fields)) if fields else b""


def _whole(name: str, value: str) -> int:
    found = _WHOLE.fullmatch(value)
    if found is None:
        raise RequestInvalid(f"{name}: {value[:80]!r} is not a whole number")
    return int(found[1])
