"""A large file of SQL, and what the kernel says of a process's memory."""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

from tests.torture.cluster import Trouble

MIB = 1024 * 1024

_WORDS = ("alpha", "beta", "gamma", "it''s", "semi;colon", "line")
_SCHEMA = """PRAGMA defer_foreign_keys=TRUE;
CREATE TABLE customers(id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, city TEXT);
CREATE TABLE orders(id INTEGER PRIMARY KEY, customer REFERENCES customers(id), amount REAL,
  note TEXT, data BLOB);
"""
_INDEXES = """CREATE INDEX orders_by_customer ON orders(customer);
CREATE VIEW totals AS SELECT customer, sum(amount) AS total FROM orders GROUP BY customer;
"""
OBJECTS = ("customers", "orders", "orders_by_customer", "totals")


@dataclass(frozen=True, slots=True)
class LargeFile:
    """The file, and what is in the database when it has been imported."""

    path: Path
    size: int
    md5: str
    statements: int
    customers: int
    orders: int


def make_file(path: Path, size: int, seed: int) -> LargeFile:
    """Write about `size` bytes of SQL."""
    rng = random.Random(seed)
    customers = max(10, size // 20_000)
    with path.open("w", encoding="utf-8") as file:
        file.write(_SCHEMA)
        for number in range(1, customers + 1):
            word = rng.choice(_WORDS)
            file.write(
                f"INSERT INTO customers VALUES({number},'{rng.getrandbits(64):x}','{word}');\n"
            )
        orders, written = 0, file.tell()
        while written < size:
            orders += 1
            note = f"replace('{rng.choice(_WORDS)}\\n{orders}','\\n',char(10))"
            line = (
                f"INSERT INTO orders VALUES({orders},{rng.randrange(customers) + 1},"
                f"{rng.random() * 1000!r},{note},"
                f"X'{rng.getrandbits(400):0100x}');\n"
            )
            file.write(line)
            written += len(line)
        file.write(_INDEXES)
    statements = 3 + customers + orders + 2
    return LargeFile(path, path.stat().st_size, md5_of(path), statements, customers, orders)


def md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def memory_of(pid: int, what: str) -> int:
    """What the kernel says of a process's memory, in MiB: VmRSS now, VmHWM the most so far."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        text = ""
    for line in text.splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) // 1024
    raise Trouble(f"no {what} of process {pid}")
