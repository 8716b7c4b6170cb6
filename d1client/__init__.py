"""The Python client of d1server: D1's Sessions API over HTTP.

    async with connect("http://127.0.0.1:8788") as client:
        session = client.database("shop").with_session()
        await session.prepare("INSERT INTO orders (id) VALUES (?)").bind(1).run()
        row = await session.prepare("SELECT * FROM orders WHERE id = ?").bind(1).first()

Names and behaviour follow the `env.DB` binding of Cloudflare D1, spelled as Python
spells names: `with_session`, `prepare().bind().run()/all()/first()/raw()`, `batch`,
`exec`, `get_bookmark`. What differs from it is said where it stands.
"""

from d1client.client import D1Client, connect
from d1client.database import D1Database
from d1client.errors import D1Error, D1OutcomeUnknown, D1Refused, D1TypeError, D1Unavailable
from d1client.results import D1ExecResult, D1Meta, D1Result, JsonValue
from d1client.retry import RetryPolicy
from d1client.session import D1Session
from d1client.statement import D1PreparedStatement, SqlParam

__all__ = [
    "D1Client",
    "D1Database",
    "D1Error",
    "D1ExecResult",
    "D1Meta",
    "D1OutcomeUnknown",
    "D1PreparedStatement",
    "D1Refused",
    "D1Result",
    "D1Session",
    "D1TypeError",
    "D1Unavailable",
    "JsonValue",
    "RetryPolicy",
    "SqlParam",
    "connect",
]
