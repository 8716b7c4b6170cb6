"""As much of GraphQL as dashboards and D1's tools send: one query, read and answered.

    query name($variable: Type) { alias: field(argument: value) { ... } }

Not here: fragments, directives, mutations, introspection. Pure: text and values in, values out.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Value: TypeAlias = Any
"""What JSON holds."""

TEXT_CHARS_MAX: Final = 64 * 1024
_DEPTH_MAX: Final = 16

TYPENAME: Final = "__typename"

_TOKEN: Final = re.compile(
    r"(?:[\s,\ufeff]|#[^\n]*)*+(?:(?P<name>[A-Za-z_]\w*+)|(?P<number>-?\d++(?:\.\d++)?(?:[eE][+-]?\d++)?)"
    r"|\"(?P<text>(?:[^\"\\\n]++|\\.)*+)\"|(?P<mark>\.\.\.|[{}()\[\]:$!=@|&])|(?P<end>\Z))"
)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_WORDS: Final[Mapping[str, Value]] = {"true": True, "false": False, "null": None}


_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")


class GraphqlRefused(Exception):
    """A query that cannot be answered; the message says why."""


@dataclass(frozen=True, slots=True)
class Field:
    """One selected field; `fields` is empty for a leaf."""

    name: str
    shown_as: str
    arguments: Mapping[str, Value]
    fields: Sequence["Field"]


Resolver: TypeAlias = Callable[[Field], Value]
"""Gives the value of a field from its arguments and, if it likes, from what is selected of it."""


def read_query(text: str, variables: Mapping[str, Value]) -> Sequence[Field]:
    """The fields that a query selects. Raises `GraphqlRefused`."""
    if len(text) > TEXT_CHARS_MAX:
        raise GraphqlRefused(f"the query is longer than {TEXT_CHARS_MAX} characters")
    return _Reader(text, variables).operation()


def answer(fields: Sequence[Field], resolvers: Mapping[str, Resolver]) -> dict[str, Value]:
    """The data that the fields select; `resolvers` by the name of a field, at any depth."""
    return {field.shown_as: _resolved(field, None, resolvers) for field in fields}


def _resolved(field: Field, parent: Value, resolvers: Mapping[str, Resolver]) -> Value:
    if field.name == TYPENAME:
        return "Object"  # of a schema that is not told here; some clients ask everywhere
    if field.name in resolvers:
        value = resolvers[field.name](field)
    elif isinstance(parent, Mapping) and field.name in parent:
        value = parent[field.name]
    else:
        raise GraphqlRefused(f"unknown field {field.name!r}")
    if isinstance(value, Mapping) != bool(field.fields) and not isinstance(value, list):
        raise GraphqlRefused(f"field {field.name!r}: it has {'' if field.fields else 'sub'}fields")
    if isinstance(value, list):
        return [_selected(field, one, resolvers) for one in value]
    return _selected(field, value, resolvers)


def _selected(field: Field, value: Value, resolvers: Mapping[str, Resolver]) -> Value:
    if not isinstance(value, Mapping):
        return value
    return {one.shown_as: _resolved(one, value, resolvers) for one in field.fields}


class _Reader:
    """Reads one query by recursive descent."""

    def __init__(self, text: str, variables: Mapping[str, Value]) -> None:
        self._text = text
        self._variables = dict(variables)
        self._at = 0
        self._depth = 0
        self._kind, self._token = "", ""
        self._next()

    def operation(self) -> Sequence[Field]:
        if self._kind == "name":
            if self._token != "query":
                raise GraphqlRefused(f"only queries are answered, not {self._token!r}")
            self._next()
            if self._kind == "name":
                self._next()
            if self._is("("):
                self._read_definitions()
        fields = self._fields()
        if self._kind != "end":
            raise GraphqlRefused("send one query")
        return fields

    def _read_definitions(self) -> None:
        """The defaults of variables; of their types, the values tell enough."""
        self._next()
        while not self._is(")"):
            self._take("$")
            name = self._name()
            self._take(":")
            self._skip_type()
            if self._is("="):
                self._next()
                default = self._value()
                self._variables.setdefault(name, default)
        self._next()

    def _skip_type(self) -> None:
        while self._is("["):
            self._next()
        self._name()
        while self._is("!") or self._is("]"):
            self._next()

    def _fields(self) -> Sequence[Field]:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise GraphqlRefused("the query is nested too deeply")
        self._take("{")
        fields = []
        while self._token != "}" or self._kind != "mark":
            fields.append(self._field())
        self._next()
        self._depth -= 1
        if not fields:
            raise GraphqlRefused("a selection of nothing")
        return fields

    def _field(self) -> Field:
        shown_as = name = self._name()
        if self._is("("):
            arguments = self._arguments()
        elif self._is(":"):
            self._next()
            name = self._name()
            arguments = self._arguments() if self._is("(") else {}
        else:
            arguments = {}
        return Field(name, shown_as, arguments, self._fields() if self._is("{") else ())

    def _arguments(self) -> Mapping[str, Value]:
        self._take("(")
        return self._members(")")

    def _members(self, end: str) -> dict[str, Value]:
        members = {}
        while not self._is(end):
            name = self._name()
            self._take(":")
            members[name] = self._value()
        self._next()
        return members

    def _value(self) -> Value:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise GraphqlRefused("the query is nested too deeply")
        kind, token = self._kind, self._token
        self._next()
        value = self._value_of(kind, token)
        self._depth -= 1
        return value

    def _value_of(self, kind: str, token: str) -> Value:
        if kind == "text":
            return _ESCAPE.sub(_unescaped, token)
        if kind == "number":
            return int(token) if re.fullmatch(r"-?\d{1,18}", token) else float(token)
        if kind == "name":
            return _WORDS.get(token, token)
        if token == "$":
            return self._variables.get(self._name())
        if token == "[":
            values = []
            while not self._is("]"):
                values.append(self._value())
            self._next()
            return values
        if token == "{":
            return self._members("}")
        raise GraphqlRefused(f"a value was expected, not {token!r}")

    def _name(self) -> str:
        if self._kind != "name":
            raise GraphqlRefused(f"a name was expected, not {self._token or 'the end'!r}")
        name = self._token
        self._next()
        return name

    def _is(self, mark: str) -> bool:
        return self._kind == "mark" and self._token == mark

    def _take(self, mark: str) -> None:
        if not self._is(mark):
            raise GraphqlRefused(f"{mark!r} was expected, not {self._token or 'the end'!r}")
        self._next()

    def _next(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None or found.lastgroup is None:
            raise GraphqlRefused(f"not GraphQL at character {self._at}")
        self._at = found.end()
        self._kind, self._token = found.lastgroup, found[found.lastgroup]


def _unescaped(found: re.Match[str]) -> str:
    if found[1]:
        return chr(int(found[1], 16)).encode("utf-8", "replace").decode()
    return _ESCAPES.get(found[2], found[2])
