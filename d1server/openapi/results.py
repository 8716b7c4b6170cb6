"""Schemas of what is answered. Pure."""

import msgspec

from d1server.access.token_bodies import NewToken
from d1server.administration import FIELDS, JURISDICTIONS
from d1server.catalog import UUID_PATTERN, ReplicationMode
from d1server.insights.recommendations import Recommended
from d1server.openapi.parameters import BOOKMARK
from d1server.openapi.parts import (
    BOOLEAN,
    COUNT,
    NUMBER,
    STRING,
    Json,
    entity,
    listed,
    nullable,
    schema,
)
from d1server.transfers.jobs import Status


def result_schemas() -> dict[str, Json]:
    """All of them, by name."""
    return {
        "Bookmark": BOOKMARK,
        **_query_schemas(),
        **_database_schemas(),
        **_job_schemas(),
        **_token_schemas(),
        **_operator_schemas(),
        **_recommendation_schemas(),
    }


def _query_schemas() -> dict[str, Json]:
    value: Json = {
        "type": ["string", "number", "null", "array"],
        "items": {"type": "integer", "minimum": 0, "maximum": 255},
        "description": "a value of SQLite; an array is a blob",
    }
    row: Json = {"type": "object", "additionalProperties": schema("Value")}
    arrays = entity({"columns": listed(STRING), "rows": listed(listed(schema("Value")))})
    return {
        "Value": value,
        "Meta": _meta(),
        "Row": row,
        "Rows": arrays,
        "QueryResult": _statement(listed(schema("Row"))),
        "RawResult": _statement(schema("Rows")),
        "BindingFailure": entity({"success": {"const": False}, "error": STRING}),
    }


def _statement(results: Json) -> Json:
    return entity({"results": results, "success": {"const": True}, "meta": schema("Meta")})


def _meta() -> Json:
    members = {
        "served_by": STRING,
        "served_by_region": STRING,
        "served_by_primary": BOOLEAN,
        "duration": NUMBER,
        "timings": entity({"sql_duration_ms": NUMBER}),
        "changes": COUNT,
        "last_row_id": {"type": "integer"},
        "changed_db": BOOLEAN,
        "size_after": COUNT,
        "rows_read": COUNT,
        "rows_written": COUNT,
        "total_attempts": COUNT,
        "waited_ms": {"type": "number", "description": "for the bookmark"},
        "lag_ms": {"type": "number", "description": "of this node behind the primary"},
    }
    return entity(members, description="What the statement did, and where.")


def _database_schemas() -> dict[str, Json]:
    members = {
        "uuid": {"type": "string", "pattern": f"^{UUID_PATTERN.pattern}$"},
        "name": STRING,
        "created_at": {"type": "string", "format": "date-time"},
        "version": STRING,
        "jurisdiction": {"enum": [*JURISDICTIONS, None]},
        "num_tables": COUNT,
        "file_size": COUNT,
        "created_in_region": nullable("string"),
        "running_in_region": STRING,
        "read_replication": entity({"mode": {"enum": [mode.value for mode in ReplicationMode]}}),
    }
    assert tuple(members) == FIELDS
    page = dict.fromkeys(("page", "per_page", "count", "total_count"), COUNT)
    return {
        "Database": entity(
            members, optional=members, description="D1's object, or the members asked for."
        ),
        "Page": entity(page),
        "Sizes": entity({"size_before": COUNT, "size_after": COUNT}),
    }


def _job_schemas() -> dict[str, Json]:
    export_result = entity({"filename": STRING, "signed_url": {"type": "string", "format": "uri"}})
    import_result = entity(
        {"num_queries": COUNT, "final_bookmark": schema("Bookmark"), "meta": {"type": "object"}}
    )
    refused = entity(
        {
            "success": {"const": False},
            "error": STRING,
            "errors": listed(STRING),
            "messages": listed(STRING),
        },
        description="There is no such job, or another one is running.",
    )
    upload = entity(
        {
            "success": {"const": True},
            "filename": STRING,
            "upload_url": {"type": "string", "format": "uri"},
            "uploaded_bytes": COUNT,
        },
        description="PUT the file there, then ask to ingest it.",
    )
    progress = entity({"queries": COUNT, "bytes_done": COUNT, "bytes_total": COUNT})
    more: dict[str, Json] = {"filename": STRING, "progress": progress}
    return {
        "NoJob": refused,
        "Upload": upload,
        "ExportJob": _job("export", export_result, {}),
        "ImportJob": _job("import", import_result, more),
    }


def _job(kind: str, result: Json, more: dict[str, Json]) -> Json:
    members: dict[str, Json] = {
        "success": {"const": True},
        "type": {"const": kind},
        "status": {"enum": [status.value for status in Status]},
        "at_bookmark": STRING,
        "messages": listed(STRING),
        "error": STRING,
        "errors": listed(STRING),
        "result": result,
        **more,
    }
    return entity(members, optional=["error", "result"])


def _token_schemas() -> dict[str, Json]:
    time: Json = {"type": ["string", "null"], "format": "date-time"}
    members = {
        "id": STRING,
        "name": STRING,
        "scopes": listed(STRING),
        "databases": {"anyOf": [listed(STRING), {"type": "null"}]},
        "state": {"enum": ["live", "expired", "revoked"]},
        "created_at": {"type": "string", "format": "date-time"},
        "expires_at": time,
        "revoked_at": time,
        "last_used_at": time,
        "token": {"type": "string", "description": "only in the answer to its creation"},
    }
    assert {"name", "scopes", "databases"} < set(NewToken.__struct_fields__)
    return {"AccessToken": entity(members, optional=["token"])}


def _recommendation_schemas() -> dict[str, Json]:
    page = {"count": COUNT, "per_page": COUNT, "cursor": nullable("string")}
    _, components = msgspec.json.schema_components(
        [Recommended], ref_template="#/components/schemas/{name}"
    )
    return {**components, "CursorPage": entity(page)}


def _operator_schemas() -> dict[str, Json]:
    readiness = {
        "ready": BOOLEAN,
        "reasons": listed(STRING),
        "status": schema("Status"),
    }
    status = {
        "role": {"enum": ["primary", "replica"]},
        "name": STRING,
        "region": STRING,
        "pid": COUNT,
        "epoch": COUNT,
        "cluster": STRING,
        "uptime_s": NUMBER,
        "databases": {"type": "object", "additionalProperties": schema("DatabaseStatus")},
        "replicas": {**listed({"type": "object"}), "description": "a primary's"},
        "primary": {"type": "object", "description": "a replica's link"},
        "query_costs_waiting": COUNT,
    }
    database = {
        "head": schema("Bookmark"),
        "applied": schema("Bookmark"),
        "durable": schema("Bookmark"),
        "lag_commits": COUNT,
        "lag_bytes": COUNT,
        "lag_ms": NUMBER,
        "checksum": STRING,
        "size_bytes": COUNT,
        "log_bytes": COUNT,
        "is_open": BOOLEAN,
        "problem": nullable("string"),
    }
    members = {
        "message": STRING,
        "path": {"anyOf": [{"type": "array", "minItems": 1}, {"type": "null"}]},
        "locations": listed(entity({"line": COUNT, "column": COUNT})),
        "extensions": entity({"timestamp": {"type": "string", "format": "date-time"}}),
    }
    graphql_error = entity(members, optional=["locations"])
    return {
        "Liveness": entity({"live": {"const": True}}),
        "Readiness": entity(readiness, optional=["status"]),
        "Status": entity(
            status, optional=["databases", "replicas", "primary", "query_costs_waiting"]
        ),
        "DatabaseStatus": entity(database),
        "GraphqlAnswer": entity(
            {
                "data": nullable("object"),
                "errors": {"anyOf": [listed(graphql_error, minItems=1), {"type": "null"}]},
            }
        ),
        "Uploaded": entity({"success": {"const": True}, "uploaded_bytes": COUNT}),
    }
