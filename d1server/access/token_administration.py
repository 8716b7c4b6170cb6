"""Access tokens on the primary: made, listed and ended by commits of the catalog.

Answers wait until the connected replicas have that commit: a new token is taken and a
revoked one refused by all of them when the caller hears of it.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

from d1server.access.grants import EVERYTHING, AccessToken, Level, new_text
from d1server.access.token_bodies import TOKENS_MAX, describe_token, make_token, read_new_token
from d1server.access.token_table import insert_token, revoke_token
from d1server.administration import success
from d1server.query import AdminRequest, Answer
from d1server.web.errors import Fault, refuse
from proto.errors import RequestInvalid

if TYPE_CHECKING:
    from d1server.primary_node import PrimaryNode

_FIRST_TOKEN: Final = "from now on this cluster asks for tokens"
_REPLICAS_WANT_ONE: Final = (
    "its replicas need one with the scope replicate (`d1server token create --scope replicate`, "
    "then --replication-token)"
)
_CUT_OFF: Final = (
    "these replicas have none, and get nothing from now on until they are restarted with "
    "--replication-token, one with the scope replicate: {}"
)


class TokenAdministration:
    """See the module's head."""

    def __init__(self, node: "PrimaryNode") -> None:
        """Keep the tokens of the cluster of `node`."""
        self._node = node
        self.operations: Final[Mapping[str, Callable[[AdminRequest], Awaitable[Answer]]]] = {
            "token-create": self._create,
            "token-list": self._list,
            "token-revoke": self._revoke,
        }

    async def _create(self, request: AdminRequest) -> Answer:
        node = self._node
        asked = read_new_token(request.body)
        text, now = new_text(), time.time()
        token = make_token(asked, text, node.catalog, now)
        known = list(node.access.tokens)
        if len(known) >= TOKENS_MAX:
            raise RequestInvalid(f"there are {TOKENS_MAX} tokens: no more are kept")
        # Who has the data directory can always make another one.
        if not known and not _administers(token) and request.grant is not EVERYTHING:
            raise RequestInvalid(
                "make one with the scope admin, for all databases, first: from the first token on "
                "requests need one, and nobody could make another"
            )
        await node.change_catalog(insert_token(token))
        hints = [] if known else [_FIRST_TOKEN]
        if cut_off := node.cut_off:
            hints.append(_CUT_OFF.format(", ".join(cut_off)))
        elif not known and not node.has_replicas:
            hints.append(_REPLICAS_WANT_ONE)
        if late := await node.wait_catalog_known():
            hints.append(f"these replicas take it when they are back: {', '.join(late)}")
        shown = describe_token(token, node.catalog, now) | {"token": text}
        return success(shown, "; ".join(hints))

    async def _list(self, request: AdminRequest) -> Answer:  # noqa: ARG002
        node, now = self._node, time.time()
        tokens = sorted(node.access.tokens, key=lambda token: (token.created_at, token.id))
        return success([describe_token(token, node.catalog, now) for token in tokens])

    async def _revoke(self, request: AdminRequest) -> Answer:
        node, now = self._node, time.time()
        if node.access.find(request.database) is None:
            shown = repr(request.database[:80])
            return refuse(
                Fault.ROUTE_UNKNOWN,
                f"no access token has the id {shown}; `d1server token list` shows them",
            )
        await node.change_catalog(revoke_token(request.database, now))
        late = await node.wait_catalog_known()
        token = node.access.find(request.database)
        assert token is not None, "rows of tokens stay"
        hint = f"these replicas take it until they are back: {', '.join(late)}" if late else ""
        return success(describe_token(token, node.catalog, now), hint)


def _administers(token: AccessToken) -> bool:
    return token.level >= Level.ADMIN and token.databases is None
