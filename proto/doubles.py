"""Numbers as JavaScript has them, for the surfaces on which D1's own clients speak.

There every number is a double. A parameter 5 binds as REAL 5.0, and what a result holds is
written as JavaScript writes it: 5.0 as 5, an integer beyond 2^53 as the double next to it, an
infinity as null.

Pure. `dump_doubles` is on the path of each query: rows without such values cost one look.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import chain
from typing import Final

import orjson

from proto import blobs

SAFE_INTEGER_MAX: Final = 2**53
_INTEGRAL_BELOW: Final = 1e21  # from here on JavaScript writes an exponent

Rows = Sequence[Sequence[object]]


def dump_doubles(rows: Rows, shaped: Callable[[Rows], object]) -> bytes:
    """Encode `shaped(rows)` as JSON; `shaped` keeps the values, it may name them."""
    if float not in set(map(type, chain.from_iterable(rows))):
        try:
            return orjson.dumps(
                shaped(rows), default=blobs.to_json, option=orjson.OPT_STRICT_INTEGER
            )
        except orjson.JSONEncodeError:
            pass  # an integer of more than 53 bits
    return orjson.dumps(shaped([list(map(_number, row)) for row in rows]), default=blobs.to_json)


def _number(value: object) -> object:
    """What stands in JSON for `value`; what is no number stays."""
    if isinstance(value, int):
        return value if -SAFE_INTEGER_MAX <= value <= SAFE_INTEGER_MAX else _digits(float(value))
    if not isinstance(value, float) or not value.is_integer():
        return value
    if abs(value) <= SAFE_INTEGER_MAX:
        return int(value)
    return _digits(value) if abs(value) < _INTEGRAL_BELOW else value


def _digits(value: float) -> orjson.Fragment:
    """The shortest digits that name this double, filled up with zeros: 9223372036854776000."""
    return orjson.Fragment(str(int(Decimal(repr(value)))))
