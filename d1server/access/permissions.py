"""What a request needs, compared with what its caller may do.

Pure: a request and a `Grant` in, None or the refusal out. The primary asks for every
request, a forwarded one too; a replica asks for what it answers itself.

| request                                 | needs                                              |
|-----------------------------------------|----------------------------------------------------|
| a query that only reads, `info`, export | read, for the database                             |
| `recommend`                             | read, for the database                             |
| a query that writes, `vacuum`           | edit, for the database                             |
| `list`, `graphql`, `recommend-all`      | read; show the databases that the token is for     |
| `create`                                | edit, for all databases                            |
| `delete`, and changing its settings     | edit for all databases, or admin for this one      |
| tokens                                  | admin, for all databases                           |

A caller who may not use a database is not told whether it exists.
"""

from collections.abc import Callable, Mapping
from typing import Final

from d1server.access.grants import Grant, Level
from d1server.query import ADMIN_OPS, Answer
from d1server.web.errors import Fault, refuse

_NO_DATABASE: Final = b""  # the uuid of none: only a grant for all databases has it

Judge = Callable[[Grant, bytes], bool]


def _reads(grant: Grant, database: bytes) -> bool:
    return grant.may(Level.READ, database)


def _edits(grant: Grant, database: bytes) -> bool:
    return grant.may(Level.EDIT, database)


def _changes(grant: Grant, database: bytes) -> bool:
    return grant.may_everywhere(Level.EDIT) or grant.may(Level.ADMIN, database)


def _lists(grant: Grant, _database: bytes) -> bool:
    return grant.level >= Level.READ


def _creates(grant: Grant, _database: bytes) -> bool:
    return grant.may_everywhere(Level.EDIT)


def _administers(grant: Grant, _database: bytes) -> bool:
    return grant.may_everywhere(Level.ADMIN)


_NEEDS: Final[Mapping[str, tuple[Judge, str]]] = {
    "create": (_creates, "edit for all databases"),
    "list": (_lists, "read"),
    "graphql": (_lists, "read"),
    "recommend": (_reads, "read for this database"),
    "recommend-all": (_lists, "read"),
    "info": (_reads, "read for this database"),
    "replace": (_changes, "edit for all databases, or admin for this one"),
    "update": (_changes, "edit for all databases, or admin for this one"),
    "delete": (_changes, "edit for all databases, or admin for this one"),
    "vacuum": (_edits, "edit for this database"),
    "export": (_reads, "read for this database"),
    "import": (_edits, "edit for this database"),
    "token-create": (_administers, "admin for all databases"),
    "token-list": (_administers, "admin for all databases"),
    "token-revoke": (_administers, "admin for all databases"),
}
assert _NEEDS.keys() == ADMIN_OPS


def refuse_read(grant: Grant, database: bytes | None) -> Answer | None:
    """The refusal of a query in this database, None if its caller may read there."""
    if grant.may(Level.READ, database or _NO_DATABASE):
        return None
    return forbid("this needs an access token with the scope read for this database")


def refuse_write(grant: Grant, database: bytes) -> Answer | None:
    """The refusal of a query that writes, None if its caller may."""
    if grant.may(Level.EDIT, database):
        return None
    return forbid("a statement here writes, which needs an access token with the scope edit")


def refuse_operation(operation: str, grant: Grant, database: bytes | None) -> Answer | None:
    """The refusal of an administration call, None if its caller may; unknown ones are refused."""
    judge, needs = _NEEDS.get(operation, (_administers, "admin for all databases"))
    if judge(grant, database or _NO_DATABASE):
        return None
    return forbid(f"this needs an access token with the scope {needs}")


def not_admitted() -> Answer:
    """The one answer to whoever comes without a live token, whatever is wrong with theirs."""
    return refuse(
        Fault.NOT_ADMITTED,
        "Authentication error: send a live access token as `Authorization: Bearer <token>`",
    )


def forbid(why: str) -> Answer:
    """A refusal in D1's words, and ours."""
    return refuse(
        Fault.FORBIDDEN,
        f"The given account is not valid or is not authorized to access this service: {why}",
    )
