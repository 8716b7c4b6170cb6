"""What SQL from outside may do, decided from SQLite's authorizer codes.

SQLite asks while it prepares a statement: "may this read column c of t?", "may this call f?".
The answers follow D1's: see the tables below. What is not listed is allowed or denied as
the comment at its table says.

Invariants:

1. Names that begin with `_cf_` or `_d1_` (in any case) are the server's own. No statement
   from outside reads, writes, makes, drops or renames them, also not through a view, a
   trigger, a virtual table or a foreign key.
2. No statement opens another file, changes how commits are made durable, or begins or ends a
   transaction.

Pure: values in, a reason or None out. `Sandbox` asks; the reason becomes the error's hint.
"""

import enum
import re
from collections.abc import Mapping
from typing import Final

import apsw

HIDDEN_PREFIXES: Final = ("_cf_", "_d1_")
_HIDDEN_WORD: Final = re.compile(r"(?<![A-Za-z0-9_$\x80-\U0010ffff])_(?:cf|d1)_", re.IGNORECASE)
NO_SUCH_HIDDEN: Final = re.compile(r"no such \w+: (?:main\.)?_(?:cf|d1)_", re.IGNORECASE)
_REFERENCES: Final = re.compile("references", re.IGNORECASE)

MODULES: Final = frozenset({"fts5", "fts5vocab", "rtree", "rtree_i32"})
"""Virtual table modules that a database may use; also those kept on a connection."""


class Argument(enum.Enum):
    """What may stand behind the name of a pragma."""

    NONE = "none"  # PRAGMA data_version
    ANY = "any"  # PRAGMA table_info(t), PRAGMA quick_check, PRAGMA optimize(0xfffe)
    SETTING = "setting"  # PRAGMA defer_foreign_keys = on


PRAGMAS: Final[Mapping[str, Argument]] = {
    "data_version": Argument.NONE,
    "page_size": Argument.NONE,
    "foreign_key_check": Argument.ANY,
    "foreign_key_list": Argument.ANY,
    "index_info": Argument.ANY,
    "index_list": Argument.ANY,
    "index_xinfo": Argument.ANY,
    "optimize": Argument.ANY,
    "quick_check": Argument.ANY,
    "table_info": Argument.ANY,
    "table_list": Argument.ANY,
    "table_xinfo": Argument.ANY,
    "case_sensitive_like": Argument.SETTING,
    "defer_foreign_keys": Argument.SETTING,
    "foreign_keys": Argument.SETTING,
    "ignore_check_constraints": Argument.SETTING,
    "legacy_alter_table": Argument.SETTING,
    "recursive_triggers": Argument.SETTING,
    "reverse_unordered_selects": Argument.SETTING,
}
"""Every other pragma is denied, also as a table-valued function `pragma_x()`."""

_FUNCTIONS_OF_CALLERS: Final = """
abs avg changes char coalesce concat concat_ws count format glob group_concat hex if ifnull iif
instr last_insert_rowid length like likelihood likely lower ltrim max min nullif octet_length
printf quote random randomblob replace round rtrim sign soundex string_agg substr substring sum
total total_changes trim typeof unhex unicode unlikely upper zeroblob
date time datetime julianday unixepoch strftime timediff
current_date current_time current_timestamp
row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2
mod pi pow power radians sin sinh sqrt tan tanh trunc
-> ->> json jsonb json_array jsonb_array json_array_insert jsonb_array_insert json_array_length
json_error_position json_extract jsonb_extract json_group_array jsonb_group_array
json_group_object jsonb_group_object json_insert jsonb_insert json_object jsonb_object json_patch
jsonb_patch json_pretty json_quote json_remove jsonb_remove json_replace jsonb_replace json_set
jsonb_set json_type json_valid
bm25 highlight match snippet rtreecheck
"""
# ALTER TABLE calls these in SQL that SQLite itself writes. A caller's own SQL cannot: SQLite
# answers "no such function".
_FUNCTIONS_OF_SQLITE: Final = """
sqlite_drop_column sqlite_rename_column sqlite_rename_quotefix sqlite_rename_table
sqlite_rename_test sqlite_add_constraint sqlite_drop_constraint sqlite_fail sqlite_find_constraint
"""

FUNCTIONS: Final = frozenset(_FUNCTIONS_OF_CALLERS.split() + _FUNCTIONS_OF_SQLITE.split())
"""Every other function is denied."""

SLOW_FUNCTIONS: Final = frozenset(
    {"highlight", "instr", "json_patch", "jsonb_patch", "replace", "snippet"}
)
"""One call can take so long that no limit on time sees it: never in the event loop."""

_TABLES_DENIED: Final = frozenset({"carray"})  # a table-valued function for C programs only

_DENIED: Final[Mapping[int, str]] = {
    apsw.SQLITE_ATTACH: "ATTACH is not available: a database reaches only its own file",
    apsw.SQLITE_DETACH: "DETACH is not available",
    apsw.SQLITE_TRANSACTION: "send the statements as one batch",
    apsw.SQLITE_SAVEPOINT: "send the statements as one batch",
    apsw.SQLITE_CREATE_TEMP_INDEX: "temporary indexes are not available",
    apsw.SQLITE_CREATE_TEMP_TABLE: "temporary tables are not available: use a common table "
    "expression, or an ordinary table",
    apsw.SQLITE_CREATE_TEMP_TRIGGER: "temporary triggers are not available",
    apsw.SQLITE_CREATE_TEMP_VIEW: "temporary views are not available: use an ordinary view",
    apsw.SQLITE_DROP_TEMP_INDEX: "temporary indexes are not available",
    apsw.SQLITE_DROP_TEMP_TABLE: "temporary tables are not available",
    apsw.SQLITE_DROP_TEMP_TRIGGER: "temporary triggers are not available",
    apsw.SQLITE_DROP_TEMP_VIEW: "temporary views are not available",
}

# Codes whose second name is also the name of an object, not of a column or a module.
_TWO_OBJECTS: Final = frozenset(
    {
        apsw.SQLITE_ALTER_TABLE,
        apsw.SQLITE_CREATE_INDEX,
        apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_DROP_INDEX,
        apsw.SQLITE_DROP_TRIGGER,
    }
)

_SCHEMA_CHANGES: Final = frozenset(
    {
        apsw.SQLITE_ALTER_TABLE,
        apsw.SQLITE_ANALYZE,
        apsw.SQLITE_CREATE_INDEX,
        apsw.SQLITE_CREATE_TABLE,
        apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_CREATE_VIEW,
        apsw.SQLITE_CREATE_VTABLE,
        apsw.SQLITE_DROP_INDEX,
        apsw.SQLITE_DROP_TABLE,
        apsw.SQLITE_DROP_TRIGGER,
        apsw.SQLITE_DROP_VIEW,
        apsw.SQLITE_DROP_VTABLE,
        apsw.SQLITE_REINDEX,
    }
)


class Trait(enum.Flag):
    """What the authorizer's codes tell about a statement beyond "allowed"."""

    NONE = 0
    WRITES = enum.auto()  # although SQLite calls it read-only
    SETS = enum.auto()  # changes a setting of the connection
    SLOW = enum.auto()  # calls one of SLOW_FUNCTIONS
    SCHEMA = enum.auto()  # may change the database without counting as a changed row
    REFERS = enum.auto()  # may hold REFERENCES: see `names_hidden`
    VIEWS = enum.auto()  # makes one
    RENAMES = enum.auto()  # may hold RENAME TO, or is a REINDEX that names what it rebuilds


_SCHEMA_TRAITS: Final[Mapping[int, Trait]] = {
    apsw.SQLITE_REINDEX: Trait.WRITES | Trait.RENAMES,
    apsw.SQLITE_ALTER_TABLE: Trait.RENAMES,
    apsw.SQLITE_CREATE_TABLE: Trait.REFERS,
    apsw.SQLITE_CREATE_VIEW: Trait.VIEWS,
}


def denial(action: int, first: str | None, second: str | None, schema: str | None) -> str | None:
    """Return why SQL from outside may not do this, or None if it may.

    The arguments are SQLite's: https://sqlite.org/c3ref/c_alter_table.html
    """
    reason = _DENIED.get(action)
    if reason is not None:
        return reason
    if action == apsw.SQLITE_FUNCTION:
        return _function_denial(second or "")
    if action == apsw.SQLITE_PRAGMA:
        return _pragma_denial((first or "").lower(), second, schema)
    # Of the whole database, the server's own tables too: ANALYZE keeps what it learns with SQLite,
    # REINDEX changes nothing. One that names them is found by `names_hidden`.
    if action in (apsw.SQLITE_ANALYZE, apsw.SQLITE_REINDEX):
        return None
    if action in (apsw.SQLITE_INSERT, apsw.SQLITE_DELETE) and schema == "temp":
        return "temporary objects are not available: use ordinary ones"
    if action == apsw.SQLITE_ALTER_TABLE:  # its names come second
        first, second = second, None
    name = (first or "").lower()
    if name.startswith(HIDDEN_PREFIXES):
        return f"{first} is reserved for the server"
    if action in _TWO_OBJECTS and (second or "").lower().startswith(HIDDEN_PREFIXES):
        return f"{second} is reserved for the server"
    if action == apsw.SQLITE_CREATE_VTABLE and (second or "").lower() not in MODULES:
        return f"virtual tables use one of {', '.join(sorted(MODULES))}"
    if name in _TABLES_DENIED or (name.startswith("pragma_") and name[7:] not in PRAGMAS):
        return f"{first} is not available"
    return None


def traits(action: int, first: str | None, second: str | None) -> Trait:
    """What an allowed action adds to what is known of the statement."""
    if action == apsw.SQLITE_FUNCTION:
        return Trait.SLOW if (second or "").lower() in SLOW_FUNCTIONS else Trait.NONE
    if action == apsw.SQLITE_PRAGMA:
        name = (first or "").lower()
        if name == "optimize":
            return Trait.WRITES | Trait.SCHEMA
        sets = PRAGMAS[name] is Argument.SETTING and second is not None
        return Trait.SETS if sets else Trait.NONE
    if action in _SCHEMA_CHANGES:
        return Trait.SCHEMA | _SCHEMA_TRAITS.get(action, Trait.NONE)
    return Trait.NONE


def may_nest_views(found: Trait) -> bool:
    """Whether views may use more views after this: there is a new one, or one has a new name."""
    return bool(found & (Trait.VIEWS | Trait.RENAMES))


def names_hidden(sql: str, found: Trait) -> bool:
    """Whether a CREATE TABLE, ALTER TABLE or REINDEX could name a table of the server.

    The authorizer does not hear of the new name in RENAME TO, nor of the table in
    REFERENCES; of REINDEX it hears the same whether that names one index or all are meant. A
    name cannot be written without its own letters, so the text tells. It may tell too much
    (within a literal): such a statement is refused as well.
    """
    if not found & (Trait.RENAMES | Trait.REFERS) or _HIDDEN_WORD.search(sql) is None:
        return False
    return bool(found & Trait.RENAMES) or _REFERENCES.search(sql) is not None


def _function_denial(name: str) -> str | None:
    if name.lower() in FUNCTIONS:
        return None
    return f"the function {name}() is not available"


def _pragma_denial(name: str, argument: str | None, schema: str | None) -> str | None:
    kind = PRAGMAS.get(name)
    if kind is None:
        return f"PRAGMA {name} is not available"
    if schema is not None and schema.lower() != "main":
        return f"PRAGMA {name} works on the schema main only"
    if kind is Argument.NONE and argument is not None:
        return f"PRAGMA {name} takes no argument"
    if argument is not None and argument.lower().startswith(HIDDEN_PREFIXES):
        return f"{argument} is reserved for the server"
    return None
