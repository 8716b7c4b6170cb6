"""The whole document, made when it is first asked for. Pure."""

from functools import cache
from typing import Final

import orjson

from d1server import __version__
from d1server.openapi.bodies import body_schemas
from d1server.openapi.others import other_operations, other_paths
from d1server.openapi.own import own_operations, own_paths
from d1server.openapi.parameters import headers, parameters
from d1server.openapi.parts import Json
from d1server.openapi.refusals import error_schemas, refusal_responses
from d1server.openapi.rest import rest_operations, rest_paths
from d1server.openapi.results import result_schemas

_ABOUT: Final = (
    "Replicated SQLite over HTTP, with D1's protocols. Any node takes any request; a replica "
    "forwards what only the primary can do. A path may end with a slash. The examples fit the "
    "sample database that `make run` makes, where no token is needed."
)


def document() -> Json:
    """The document as a value."""
    paths: Json = {}
    beside = {**own_paths(), **rest_paths(), **other_paths()}
    for method, path, content in [*own_operations(), *rest_operations(), *other_operations()]:
        paths.setdefault(path, dict(beside.get(path, {})))[method] = content
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "d1server",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"accessToken": []}],
        "paths": paths,
        "components": {
            "schemas": {**body_schemas(), **result_schemas(), **error_schemas()},
            "parameters": parameters(),
            "headers": headers(),
            "responses": refusal_responses(),
            "securitySchemes": {
                "accessToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An access token. A node on loopback asks for none until the "
                    "cluster has one.",
                }
            },
        },
    }


@cache
def encoded() -> bytes:
    """The document as it is served."""
    return orjson.dumps(document())
