"""The refusals as responses, one for each status in the table of `d1server.web.errors`. Pure."""

from collections.abc import Sequence

from d1server.openapi.parts import Json, answer, entity, envelope, listed, schema
from d1server.web.errors import REFUSALS, Fault, Refusal


def refusal_responses() -> dict[str, Json]:
    """`Refused<status>` for each status."""
    statuses = sorted({refusal.status for refusal in REFUSALS.values()})
    return {f"Refused{status}": _response(status) for status in statuses}


def error_schemas() -> dict[str, Json]:
    """The envelope of an error, and what is in it."""
    codes = sorted({refusal.code for refusal in REFUSALS.values()})
    code: Json = {"type": "integer", "enum": codes}
    message: Json = {"type": "string", "description": "what happened, and what to do"}
    statement: Json = {
        "type": "integer",
        "minimum": 0,
        "description": "which of several statements failed, from 0",
    }
    return {
        "ErrorItem": entity(
            {"code": code, "message": message, "statement": statement}, optional=["statement"]
        ),
        "Message": entity({"code": {"type": "integer"}, "message": {"type": "string"}}),
        "Error": envelope({"type": "array", "maxItems": 0})
        | {
            "properties": {
                "result": {"type": "array", "maxItems": 0},
                "success": {"const": False},
                "errors": listed(schema("ErrorItem"), minItems=1),
                "messages": listed(schema("Message")),
            }
        },
    }


def _response(status: int) -> Json:
    found = [(fault, refusal) for fault, refusal in REFUSALS.items() if refusal.status == status]
    lines = [_line(fault, refusal) for fault, refusal in found]
    headers = _headers(status, [refusal for _, refusal in found])
    return answer("\n".join(lines), schema("Error"), headers)


def _line(fault: Fault, refusal: Refusal) -> str:
    retry = {None: "", True: "; `x-should-retry: true`", False: "; `x-should-retry: false`"}
    return f"- {refusal.code}: {fault.value}{retry[refusal.should_retry]}"


def _headers(status: int, refusals: Sequence[Refusal]) -> dict[str, Json]:
    headers: dict[str, Json] = {}
    if told := {refusal.should_retry for refusal in refusals} - {None}:
        words = [word for word, meant in (("true", True), ("false", False)) if meant in told]
        headers["x-should-retry"] = {
            "required": all(refusal.should_retry is not None for refusal in refusals),
            "description": "`true` if surely nothing was done, `false` if the outcome is unknown "
            "or another try cannot help",
            "schema": {"type": "string", "enum": words},
        }
    if status in (429, 503):
        headers["retry-after"] = {
            "description": "seconds to wait before another try",
            "schema": {"type": "integer", "minimum": 0},
        }
    if status == 401:
        headers["www-authenticate"] = {"schema": {"type": "string"}}
    if status in (400, 503):
        headers["x-d1-bookmark"] = {"$ref": "#/components/headers/Bookmark"}
    return headers
