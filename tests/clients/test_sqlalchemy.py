"""SQLAlchemy with sqlalchemy-cloudflare-d1: tables made, filled, queried and read back."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from tests.clients.nodes import Nodes

METADATA = sa.MetaData()
CUSTOMERS = sa.Table(
    "customers",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(50), nullable=False, unique=True),
)
ORDERS = sa.Table(
    "orders",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("customer_id", sa.ForeignKey("customers.id"), nullable=False, index=True),
    sa.Column("total", sa.Float),
    sa.Column("photo", sa.LargeBinary),
    sa.Column("paid", sa.Boolean, nullable=False, server_default="0"),
    sa.Column("at", sa.DateTime),
)


def url_of(node: str, database: str, driver: str = "cloudflare_d1") -> str:
    """The dialect wants the whole URL of the database as the base of its own."""
    base = f"{node}/client/v4/accounts/any/d1/database/{database}"
    return f"{driver}://any:any@{database}?base_url={base}"


@pytest.fixture(scope="module")
def engine(nodes: Nodes) -> Iterator[sa.Engine]:
    """An engine at the replica, with the tables and a little in them."""
    nodes.create("sqlalchemy")
    engine = sa.create_engine(url_of(nodes.replica, "sqlalchemy"))
    METADATA.create_all(engine)
    with engine.begin() as connection:
        connection.execute(CUSTOMERS.insert(), [{"name": "Amara"}, {"name": "Björn"}])
        order = {"customer_id": 1, "total": 12.5, "photo": b"\x00\xff", "paid": True}
        connection.execute(ORDERS.insert().values(**order))
        connection.execute(ORDERS.insert().values(customer_id=2, total=3))
    yield engine
    engine.dispose()


def test_rows_come_back(nodes: Nodes, engine: sa.Engine) -> None:
    """Also found by the server's own API: numbers are numbers there."""
    join = sa.select(CUSTOMERS.c.name, ORDERS.c.total, ORDERS.c.photo, ORDERS.c.paid, ORDERS.c.at)
    with engine.connect() as connection:
        rows = connection.execute(join.join(ORDERS).order_by(ORDERS.c.id)).all()
        total = connection.scalar(sa.select(sa.func.sum(ORDERS.c.total)))
        some = connection.execute(sa.select(CUSTOMERS.c.id).where(CUSTOMERS.c.name.in_(["Björn"])))
        assert some.scalars().all() == [2]
    assert [tuple(row) for row in rows] == [
        ("Amara", 12.5, b"\x00\xff", True, None),
        ("Björn", 3.0, None, False, None),
    ]
    assert total == 15.5
    rows, _ = nodes.query("sqlalchemy", "SELECT total, typeof(paid) AS paid FROM orders")
    assert rows == [{"total": 12.5, "paid": "integer"}, {"total": 3.0, "paid": "integer"}]


def test_changes_are_counted(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        raised = connection.execute(CUSTOMERS.update().values(name=CUSTOMERS.c.name + "!"))
        assert raised.rowcount == 2
        connection.execute(CUSTOMERS.update().values(name=sa.func.rtrim(CUSTOMERS.c.name, "!")))
        inserted = connection.execute(CUSTOMERS.insert().values(name="Chloé"))
        assert inserted.inserted_primary_key == (3,)
        gone = connection.execute(CUSTOMERS.delete().where(CUSTOMERS.c.name == "Chloé"))
        assert gone.rowcount == 1


def test_schema_is_reflected(engine: sa.Engine) -> None:
    inspector = sa.inspect(engine)
    assert inspector.get_table_names() == ["customers", "orders"]
    assert not inspector.has_table("nope")
    columns = {column["name"]: column for column in inspector.get_columns("orders")}
    assert list(columns) == [column.name for column in ORDERS.columns]
    assert isinstance(columns["total"]["type"], sa.Float)
    assert [name for name, column in columns.items() if not column["nullable"]] == [
        "id",
        "customer_id",
        "paid",
    ]
    assert inspector.get_pk_constraint("orders")["constrained_columns"] == ["id"]
    (index,) = inspector.get_indexes("orders")
    assert (index["name"], index["column_names"]) == ("ix_orders_customer_id", ["customer_id"])
    (key,) = inspector.get_foreign_keys("orders")
    assert (key["constrained_columns"], key["referred_table"]) == (["customer_id"], "customers")
    (unique,) = inspector.get_unique_constraints("customers")
    assert unique["column_names"] == ["name"]

    reflected = sa.MetaData()
    reflected.reflect(engine)
    orders = reflected.tables["orders"]
    assert [key.target_fullname for key in orders.foreign_keys] == ["customers.id"]
    METADATA.create_all(engine)  # finds that all is there


def test_mistakes_are_sqlalchemys_errors(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        with pytest.raises(
            sa.exc.DatabaseError, match=r"UNIQUE constraint failed: customers\.name"
        ):
            connection.execute(CUSTOMERS.insert().values(name="Amara"))
        with pytest.raises(sa.exc.DatabaseError, match="no such table: nope"):
            connection.execute(sa.text("SELECT * FROM nope"))


async def test_asynchronous_engine(nodes: Nodes, engine: sa.Engine) -> None:
    away = create_async_engine(url_of(nodes.primary, "sqlalchemy", "cloudflare_d1+async"))
    try:
        async with away.begin() as connection:
            rows = await connection.execute(CUSTOMERS.select().order_by(CUSTOMERS.c.id))
            assert [row.name for row in rows] == ["Amara", "Björn"]
    finally:
        await away.dispose()
