"""Variables of a GraphQL query have the types of the places where they stand.

Cloudflare's API does not look at the types that variables are declared with, and its clients
declare what they like: wrangler the filter of another product, others `JSON`, `DateTime`, `String`
or `string`. So the declared types are put right before the query is judged: a `!` stays, a variable
that stands in places of several types becomes several, one that stands nowhere goes.

Pure.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from graphql import (
    SKIP,
    DocumentNode,
    GraphQLSchema,
    NameNode,
    NonNullTypeNode,
    OperationDefinitionNode,
    TypeInfo,
    TypeInfoVisitor,
    VariableDefinitionNode,
    VariableNode,
    Visitor,
    is_non_null_type,
    parse_type,
    visit,
)

_ANYTHING: Final = "string"  # of a place that the schema does not have: the rules refuse it


def placed_variables(
    schema: GraphQLSchema, document: DocumentNode, values: Mapping[str, Any]
) -> tuple[DocumentNode, dict[str, Any]]:
    """The document with its variables' types put right, and their values by their new names."""
    types = TypeInfo(schema)
    places = _Places(types)
    document = visit(document, TypeInfoVisitor(types, places))
    definitions = [
        replace(one, variable_definitions=places.defined(one))
        if isinstance(one, OperationDefinitionNode)
        else one
        for one in document.definitions
    ]
    named = {
        new: values[old]
        for old, by_type in places.found.items()
        if old in values
        for new in by_type.values()
    }
    return replace(document, definitions=tuple(definitions)), named


class _Places(Visitor):
    """Finds the places of variables, and gives each variable one name for each type."""

    def __init__(self, types: TypeInfo) -> None:
        super().__init__()
        self._types = types
        self.found: dict[str, dict[str, str]] = {}  # name -> type -> new name
        self._needed: set[str] = set()  # new names of those that stand where null may not

    def enter_variable_definition(self, *_: Any) -> Any:
        return SKIP

    def enter_variable(self, node: VariableNode, *_: Any) -> VariableNode | None:
        name = node.name.value
        place = self._types.get_input_type()
        by_type = self.found.setdefault(name, {})
        shown = str(place).removesuffix("!") if place is not None else _ANYTHING
        new = by_type.setdefault(shown, f"{name}__{len(by_type)}" if by_type else name)
        if is_non_null_type(place):
            self._needed.add(new)
        return None if new == name else VariableNode(name=NameNode(value=new))

    def defined(self, operation: OperationDefinitionNode) -> tuple[VariableDefinitionNode, ...]:
        """The definitions that an operation needs instead of its own."""
        return tuple(
            replace(
                one,
                variable=VariableNode(name=NameNode(value=new)),
                type=parse_type(shown + "!" if self._is_needed(one, new) else shown),
            )
            for one in operation.variable_definitions or ()
            for shown, new in self.found.get(one.variable.name.value, {}).items()
        )

    def _is_needed(self, one: VariableDefinitionNode, new: str) -> bool:
        is_declared = isinstance(one.type, NonNullTypeNode)
        return is_declared or (new in self._needed and one.default_value is None)
