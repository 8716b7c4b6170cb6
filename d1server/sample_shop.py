"""The sample database that `d1server dev` makes: a shop with products, customers, orders.

Small enough to read as a whole, made by SQL alone, and the same on every machine.
"""

from typing import Final

SHOP: Final = "shop"

SCHEMA: Final = (
    """CREATE TABLE products (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    price_cents INTEGER NOT NULL CHECK (price_cents > 0),
    stock INTEGER NOT NULL CHECK (stock >= 0)
) STRICT""",
    """CREATE TABLE customers (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    city TEXT NOT NULL
) STRICT""",
    """CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers,
    product_id INTEGER NOT NULL REFERENCES products,
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    ordered_at TEXT NOT NULL
) STRICT""",
    "CREATE INDEX orders_by_customer ON orders (customer_id, ordered_at)",
)

ROWS: Final = (
    """INSERT INTO products (id, name, price_cents, stock) VALUES
    (1, 'Espresso cup', 900, 120), (2, 'Teapot', 3400, 18), (3, 'Milk jug', 1550, 40),
    (4, 'Sugar bowl', 1250, 35), (5, 'Coffee grinder', 8900, 12), (6, 'Kettle', 5600, 20),
    (7, 'Dripper', 2100, 44), (8, 'Paper filters', 450, 300), (9, 'Tea tin', 1100, 60),
    (10, 'Saucer', 600, 140), (11, 'Tray', 2700, 25), (12, 'Tea towel', 800, 90)""",
    """INSERT INTO customers (id, name, city) VALUES
    (1, 'Amara Okafor', 'Lagos'), (2, 'Björn Lindqvist', 'Malmö'), (3, 'Chloé Martin', 'Lyon'),
    (4, 'Dmitri Volkov', 'Riga'), (5, 'Elena Rossi', 'Turin'), (6, 'Farid Haddad', 'Tunis'),
    (7, 'Grace Kim', 'Busan'), (8, 'Hiroshi Tanaka', 'Osaka'), (9, 'Inés Navarro', 'Quito'),
    (10, 'Jonas Weber', 'Bremen')""",
    # Strides that share no factor with 10 and 12 reach every customer and every product.
    """INSERT INTO orders (id, customer_id, product_id, quantity, ordered_at)
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 48)
    SELECT i, 1 + i * 7 % 10, 1 + i * 5 % 12, 1 + i * i % 4,
        datetime('2026-01-05 09:00:00', '+' || (i * 31) || ' hours')
    FROM n""",
)

STATEMENTS: Final = (*SCHEMA, *ROWS)

EXAMPLE_QUERY: Final = "SELECT name, city FROM customers ORDER BY id LIMIT 3"
IS_THERE_QUERY: Final = "SELECT count(*) AS found FROM sqlite_schema WHERE name = 'orders'"
