"""How large SQL from outside may be.

The defaults are D1's; where they are not, the line says why. Every one is a setting of the node
(`d1server/config.py`).
"""

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlLimits:
    """See the module's head."""

    statement_bytes_max: int = 100_000
    value_bytes_max: int = 2_000_000  # a string, a blob or a row
    columns_max: int = 100
    expression_depth_max: int = 200  # D1: 100, which ordinary programs exceed
    compound_selects_max: int = 5
    instructions_max: int = 250_000  # D1: 25,000, a tenth of an INSERT of 100,000 bytes
    function_arguments_max: int = 127  # as D1 runs; its documentation says 32
    pattern_bytes_max: int = 50  # LIKE and GLOB
    variables_max: int = 100
    trigger_depth_max: int = 10
    database_bytes_max: int = 10 * 1024 * MIB  # then only what makes it smaller is taken
    result_bytes_max: int = 32 * MIB  # of all statements of one request; memory, not D1's
    memory_bytes_max: int = 256 * MIB  # what one statement may add to SQLite's memory
    spill_bytes_max: int = 2048 * MIB  # temporary files of all statements of this process
