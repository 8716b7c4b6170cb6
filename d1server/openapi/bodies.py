"""Schemas of requests. Pure.

Those of the administration are the structs that decode them; a query's are written here, for
its members depend on each other, and a test compares them with the struct's.
"""

from typing import Any, Final

import msgspec

from d1server.access.token_bodies import NewToken
from d1server.administration import ChangeDatabase, CreateDatabase
from d1server.insights.graphql_answers import GraphqlBody
from d1server.openapi.parts import STRING, Json, entity, listed, schema
from d1server.transfers.bodies import ExportCall, Ingest, Init, Poll

_STRUCTS: Final = (CreateDatabase, ChangeDatabase, ExportCall, NewToken, GraphqlBody)

_PARAMS: Final = (
    "values for the `?` of the last statement; JSON integers bind as INTEGER at /db (at most 64 "
    "bits) and as REAL elsewhere, as at D1; booleans as 0 and 1; an array is a blob of bytes"
)


def body_schemas() -> dict[str, Json]:
    """All of them, by name."""
    asked: list[Any] = [*_STRUCTS, Init | Ingest | Poll]
    references, components = msgspec.json.schema_components(
        asked, ref_template="#/components/schemas/{name}"
    )
    return {**components, "ImportCall": references[-1], **_query_schemas()}


def _query_schemas() -> dict[str, Json]:
    byte: Json = {"type": "integer", "minimum": 0, "maximum": 255}
    scalar: Json = {"type": ["string", "number", "boolean", "null"]}
    params: Json = {"anyOf": [listed(schema("Param")), {"type": "null"}], "description": _PARAMS}
    absent: Json = {"type": "null"}
    member = entity({"sql": STRING, "params": params}, optional=["params"])
    one = {"sql": STRING, "params": params, "batch": absent}
    batch: dict[str, Any] = {
        "batch": listed(schema("BatchMember"), minItems=1),
        "sql": False,
        "params": absent,
    }
    members: Json = {
        **listed(schema("BatchMember"), minItems=1),
        "description": "a batch, as `env.DB` sends it",
    }
    return {
        "Param": {"anyOf": [scalar, {**listed(byte), "description": "a blob"}]},
        "BatchMember": member,
        "Query": {
            "description": "SQL text of one or more statements, or a batch of such texts; either "
            "is one transaction.",
            "anyOf": [
                entity(one, optional=["params", "batch"]),
                entity(batch, optional=["sql", "params"]),
            ],
        },
        "BindingCall": {"anyOf": [schema("Query"), members]},
    }
