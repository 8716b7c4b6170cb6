"""What the document is made of: operations, bodies, answers, references. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

Json: TypeAlias = dict[str, Any]

JSON_TYPE: Final = "application/json"

# Statuses that every operation may answer with, and more for those that take a body.
EVERY: Final = (400, 401, 403, 429, 500)
WITH_BODY: Final = (*EVERY, 408, 413, 417, 503)


class Operation(NamedTuple):
    """One method of one path."""

    method: str  # in lower case
    path: str
    content: Json


def operation(
    key: str,
    *,
    tag: str,
    summary: str,
    answers: Mapping[int, Json],
    refusals: Iterable[int] = EVERY,
    description: str = "",
    parameters: Sequence[Json] = (),
    body: Json | None = None,
    is_open: bool = False,
) -> Json:
    """An operation's object; `refusals`: statuses of the components of the same number."""
    content: Json = {"operationId": key, "tags": [tag], "summary": summary}
    if description:
        content["description"] = description
    if parameters:
        content["parameters"] = list(parameters)
    if body is not None:
        content["requestBody"] = body
    told = {status: ref("responses", f"Refused{status}") for status in refusals} | dict(answers)
    content["responses"] = {str(status): told[status] for status in sorted(told)}
    if is_open:
        content["security"] = []
    return content


def ref(kind: str, name: str) -> Json:
    """A reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def schema(name: str) -> Json:
    """A reference to a schema."""
    return ref("schemas", name)


def parameter(name: str) -> Json:
    """A reference to a parameter."""
    return ref("parameters", name)


def json_body(of: Json, *, is_required: bool = True, **examples: object) -> Json:
    """A request's body, with examples by their names."""
    media: Json = {"schema": of}
    if examples:
        media["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"required": is_required, "content": {JSON_TYPE: media}}


def answer(text: str, of: Json, headers: Mapping[str, Json] | None = None) -> Json:
    """A response in JSON."""
    told: Json = {"description": text, "content": {JSON_TYPE: {"schema": of}}}
    if headers:
        told["headers"] = dict(headers)
    return told


def envelope(result: Json, **more: Json) -> Json:
    """D1's envelope around the result of a success."""
    members = {
        "result": result,
        "success": {"const": True},
        "errors": {"type": "array", "maxItems": 0},
        "messages": listed(schema("Message")),
        **more,
    }
    return entity(members)


def entity(
    members: Mapping[str, Json], *, optional: Iterable[str] = (), description: str = ""
) -> Json:
    """An object that has all these members, but for the optional ones; others may come."""
    absent = set(optional)
    told: Json = {"type": "object", "properties": dict(members)}
    if required := [name for name in members if name not in absent]:
        told["required"] = required
    return told | ({"description": description} if description else {})


def listed(items: Json, **bounds: int) -> Json:
    """An array."""
    return {"type": "array", "items": items, **bounds}


def nullable(kind: str) -> Json:
    """A value of this kind, or null."""
    return {"type": [kind, "null"]}


STRING: Final[Json] = {"type": "string"}
NUMBER: Final[Json] = {"type": "number"}
COUNT: Final[Json] = {"type": "integer", "minimum": 0}
BOOLEAN: Final[Json] = {"type": "boolean"}
