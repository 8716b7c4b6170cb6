"""Indexes that statements would use, by SQLite's own planner."""

from collections.abc import Iterator

import pytest

from engine.index_advice import Advisor, Index

SCHEMA = [
    ("table", "users", "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE, age, city)"),
    ("table", "posts", "CREATE TABLE posts (id INTEGER PRIMARY KEY, author INTEGER, at, title)"),
    ("index", "by_at", "CREATE INDEX by_at ON posts (at)"),
    ("view", "adults", "CREATE VIEW adults AS SELECT * FROM users WHERE age >= 18"),
    ("table", "found", "CREATE VIRTUAL TABLE found USING fts5(text)"),
    ("table", "found_data", "CREATE TABLE 'found_data'(id INTEGER PRIMARY KEY, block BLOB)"),
    ("table", "_cf_KV", "CREATE TABLE _cf_KV (key TEXT)"),
    ("table", "broken", "CREATE TABLE broken (a CHECK"),
    ("trigger", "t", "CREATE TRIGGER t AFTER INSERT ON users BEGIN SELECT 1; END"),
    ("index", "sqlite_autoindex_users_1", None),
]


@pytest.fixture
def advisor() -> Iterator[Advisor]:
    advisor = Advisor(SCHEMA, [("users", None, "100000"), ("posts", "by_at", "500000 1")])
    yield advisor
    advisor.close()


def indexes(advisor: Advisor, sql: str) -> list[tuple[str, ...]]:
    return [(one.index.table, *one.index.columns) for one in advisor.advise(sql, lambda: False)]


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("SELECT id FROM users WHERE city = ?", [("users", "city")]),
        ("SELECT id FROM users WHERE age > ? AND city = ?", [("users", "city", "age")]),
        ("SELECT * FROM users AS u WHERE u.city IN (?, ...)", [("users", "city")]),
        ("SELECT count(*) FROM adults", [("users", "age")]),
        ("SELECT * FROM users ORDER BY age LIMIT ?", [("users", "age")]),
        (
            "SELECT * FROM posts WHERE author = ? ORDER BY title LIMIT ?",
            [("posts", "author", "title")],
        ),
        (
            "SELECT title FROM users JOIN posts ON author = users.id WHERE city = ?",
            [("posts", "author"), ("users", "city")],
        ),
        ("UPDATE users SET age = ? WHERE city = ?", [("users", "city")]),
        ("DELETE FROM posts WHERE author = ?", [("posts", "author")]),
    ],
)
def test_a_statement_that_scans_would_use(
    advisor: Advisor, sql: str, wanted: list[tuple[str, ...]]
) -> None:
    assert sorted(indexes(advisor, sql)) == sorted(wanted)
    assert sorted(indexes(advisor, sql)) == sorted(wanted), "nothing is left of the candidates"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM users WHERE id = ?",
        "SELECT * FROM users WHERE email = ?",
        "SELECT * FROM posts WHERE at > ?",
        "SELECT * FROM users ORDER BY age",  # all rows are read in any case
        "SELECT count(*) FROM users",
        "SELECT * FROM users WHERE age + ? = ?",
        "SELECT * FROM users WHERE city LIKE ?",
        "SELECT * FROM found WHERE text = ?",
        "SELECT * FROM found_data WHERE block = ?",
        "SELECT * FROM _cf_KV WHERE key = ?",
        "SELECT * FROM broken WHERE a = ?",
        "SELECT * FROM users WHERE rowid + ? = ?",
        "SELECT title FROM users JOIN posts ON users.id = at + ? WHERE city + ? = ?",
        "SELECT no FROM such",
        "SELECT ?; SELECT * FROM users WHERE city = ?",
        "INSERT INTO users VALUES (?, ?, ?, ?), ...",
        "PRAGMA journal_mode = ?",
        "SELECT ?; ATTACH ? AS other",
        "ATTACH ? AS other",
        "(other statements)",
        "SELEC",
        "",
        "SELECT * FROM users WHERE city = ? AND age ...",
    ],
)
def test_no_index_is_made_up(advisor: Advisor, sql: str) -> None:
    assert indexes(advisor, sql) == []


def test_the_advice_says_what_changes(advisor: Advisor) -> None:
    (advice,) = advisor.advise("SELECT id FROM users WHERE age > ? AND city = ?", lambda: False)
    assert (advice.equal, advice.has_range) == (("city",), True)
    assert advice.before == "SCAN users"
    assert advice.after == "SEARCH users USING COVERING INDEX idx_users (city=? AND age>?)"


def test_it_ends_when_time_is_over(advisor: Advisor) -> None:
    assert advisor.advise("SELECT id FROM users WHERE city = ?", lambda: True) == []


def test_the_name_of_an_index_is_free_and_quoted(advisor: Advisor) -> None:
    assert advisor.index_sql(Index("posts", ("at",))).startswith('CREATE INDEX "idx_posts_at" ON')
    advisor._scratch.execute("CREATE TABLE idx_posts_at (a)")
    assert (
        advisor.index_sql(Index("posts", ("at",)))
        == 'CREATE INDEX "idx_posts_at_2" ON "posts" ("at")'
    )
    assert '"a""b" ("x y")' in advisor.index_sql(Index('a"b', ("x y",)))


def test_what_keeps_an_index_up_to_date(advisor: Advisor) -> None:
    index = Index("users", ("city",))
    for sql, is_kept in (
        ("INSERT INTO users VALUES (?, ?, ?, ?), ...", True),
        ("DELETE FROM users WHERE id = ?", True),
        ("UPDATE users SET city = ?", True),
        ("UPDATE users SET age = ?", False),
        ("SELECT * FROM users WHERE city = ?", False),
        ("INSERT INTO posts SELECT * FROM users", False),
    ):
        assert advisor.touched(sql).writes(index) == is_kept, sql
