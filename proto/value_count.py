"""How many values does a JSON text hold: told before anything is made of them.

A value of two bytes, such as `[]`, becomes a hundred bytes of Python: a body that is allowed by
its size could take gigabytes. So a large one is counted first. Texts are passed over, and an
array of plain numbers in another array, which is a blob, counts as one value, however long it is.

Invariants:

1. What a decoder makes of the text, or of its beginning up to the first mistake, is no more than
   was counted, but for a few values.
2. Every byte is looked at a bounded number of times, and other threads run in between.

Pure.
"""

import re
from typing import Final

_MARKS: Final = 1024  # commas and opening brackets that one match passes
_PASSED: Final = rb'(?: [^"\[{,:]++ | "[^"]*+" | :(?!\s*+\[) )*+'
_MARK: Final = rb"(?: :\s*+\[ | \[[0-9,\s]*+\] | [\[{,] )"
_NEXT_MARKS: Final = re.compile(rb"(?: %b %b ){%d}+" % (_PASSED, _MARK, _MARKS), re.VERBOSE)


def has_more_values(text: bytes, values_max: int) -> bool:
    """Whether it holds more than about `values_max` values."""
    if text.count(b",") + text.count(b"[") + text.count(b"{") <= values_max:
        return False  # the usual case, at the speed of memory
    text = text.replace(rb"\\", b"").replace(rb"\"", b"")  # what is left of quotes are ends
    at = count = 0
    while count <= values_max:
        found = _NEXT_MARKS.match(text, at)
        if found is None:  # nearly at the end, or at a mistake
            return False
        at = found.end()
        count += _MARKS
    return True
