"""One SQLite connection on which SQL from strangers is safe to run.

Two kinds of statements run here. Those from outside pass the authorizer
(`engine/permissions.py`), the limits and the clock. The server's own (`execute_internal`)
pass none of them.

Invariants:

1. SQLite asks the authorizer while it *prepares* a statement, and apsw keeps prepared
   statements by their text. So the server's own texts carry a comment that nobody outside
   can know: a caller's "BEGIN IMMEDIATE" is never found as ours.
2. The commit log is what is durable, not SQLite's files: `synchronous` is OFF, nothing is
   checkpointed but by the owner.
3. A setting that a caller changes (`PRAGMA case_sensitive_like`) lasts until the end of its
   request, `limit_time`.
4. A statement that runs out of time or space is stopped, as far as SQLite can be stopped: not
   within one instruction of its virtual machine. See `SLOW_FUNCTIONS`. In the event loop it
   looks at the clock itself; on a thread the watchdog does.

One thread at a time uses a sandbox; only `interrupt` may come from any thread.
"""

import math
import secrets
import shutil
import time
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import apsw

from engine.counts import Counters, RowCounts
from engine.errors import (
    BudgetExceeded,
    DatabaseDamaged,
    DeadlineExceeded,
    DiskFull,
    StatementRefused,
)
from engine.functions import install_bounded
from engine.limits import MIB, SqlLimits
from engine.permissions import (
    MODULES,
    NO_SUCH_HIDDEN,
    Trait,
    denial,
    may_nest_views,
    names_hidden,
    traits,
)
from engine.sqlerrors import describe_error, hint_for, is_damage
from engine.views import COPIES_MAX, copies
from engine.wal import PAGE_SIZE
from engine.watchdog import TIME, WATCHDOG, Watch
from proto.api import SqlValue

CACHE_KIB_WRITER: Final = 32 * 1024  # a random update costs 3 times as much with SQLite's 2 MB
CACHE_KIB_READER: Final = 16 * 1024
HEAP_SOFT_BYTES: Final = 512 * MIB  # from here on page caches reuse their pages
HEAP_HARD_BYTES: Final = 1536 * MIB  # one instruction (json_pretty) could allocate without end
BUSY_TIMEOUT_MS: Final = 1000  # only recovery and the start of a WAL can be in the way
STATEMENTS_KEPT: Final = 128  # prepared, per connection
INLINE_S_MAX: Final = 0.05  # a budget up to this is one of the event loop's
INLINE_RESULT_BYTES_MAX: Final = 256 * 1024  # a larger answer takes long to be written as JSON

_UNSPILLED_BYTES_MAX: Final = 2 * CACHE_KIB_WRITER * 1024
_FREE_BYTES_MIN: Final = 4 * MIB  # with less than this, the disk is what is full
_INLINE_STEPS: Final = 64  # between two looks at the clock; one step may take 10 ms
_SETTINGS: Final = (
    "PRAGMA case_sensitive_like=0",
    "PRAGMA defer_foreign_keys=0",
    "PRAGMA foreign_keys=1",
    "PRAGMA ignore_check_constraints=0",
    "PRAGMA legacy_alter_table=0",
    "PRAGMA recursive_triggers=0",
    "PRAGMA reverse_unordered_selects=0",
)
_INSTRUCTIONS_LISTED_MAX: Final = 1000  # a millisecond; a view or a trigger may be 250,000
_HIDDEN_TEXT: Final = "not authorized: SQLITE_AUTH"
_HIDDEN_HINT: Final = "names that begin with _cf_ or _d1_ are reserved"
_SECRET: Final = secrets.token_hex(16)
_TRANSACTION_TEXT: Final = (
    "To execute a transaction, please send the statements as one batch "
    '({"batch": [...]}, or several statements in one "sql") instead of the SQL BEGIN TRANSACTION '
    "or SAVEPOINT statements. A batch is one transaction: it is rolled back as a whole if one of "
    "its statements fails."
)


class Prepared(NamedTuple):
    """What SQLite says of a statement before it runs."""

    is_readonly: bool
    is_explain: bool
    parameters: int
    columns: tuple[str, ...]
    found: Trait


class Sandbox:
    """See the module's head."""

    def __init__(self, connection: apsw.Connection, limits: SqlLimits) -> None:
        """Use `open_writer` or `open_reader`."""
        self.connection = connection
        self.limits = limits
        self.cursor = connection.cursor()
        self.is_in_request = False  # within `limit_time`
        self.result_bytes = 0  # of this request so far
        self.row_counts: dict[tuple[int, str], RowCounts] = {}  # see `engine/statements.py`
        self.counters: Counters | None = None  # of the newest run between start_ and stop_counting
        self.result_bytes_bound = limits.result_bytes_max  # of this request
        self._inline_result_bytes = min(INLINE_RESULT_BYTES_MAX, limits.result_bytes_max)
        self.prepares = 0  # grows whenever SQLite prepares a statement from outside, again or anew
        self._planning = self._cursor_for_planning()
        self._explaining = connection.cursor()
        self._prepared: Prepared | None = None
        self._is_internal = False
        self._found = Trait.NONE
        self._has_changed_settings = False
        self._denied: tuple[int, str] | None = None
        self._schema_version: int | None = None  # as of the last look, after a refusal
        self._time_limit = _TimeLimit(self)
        self.is_inline = False  # whether the present budget is one of the event loop's
        self._stop_at = math.inf  # of an inline request
        self._grace_s = 0.0
        self._watch = Watch(  # of any other request
            interrupt=self._interrupt_callers,
            stop_at=math.inf,
            memory_bytes_max=limits.memory_bytes_max,
            spill_bytes_max=limits.spill_bytes_max,
        )
        self._harden()

    @classmethod
    def open_writer(cls, path: Path, limits: SqlLimits) -> Self:
        """Open a database's one writing connection; makes the file if there is none."""
        connection = apsw.Connection(str(path), statementcachesize=STATEMENTS_KEPT)
        _configure(connection, cache_kib=CACHE_KIB_WRITER)
        connection.pragma("page_size", PAGE_SIZE)
        connection.pragma("journal_mode", "wal")
        # A database that is larger already stays as it is, and does not grow.
        connection.pragma("max_page_count", max(1, limits.database_bytes_max // PAGE_SIZE))
        return cls(connection, limits)

    @classmethod
    def open_reader(cls, path: Path, limits: SqlLimits) -> Self:
        """Open a connection that cannot write. The database must exist."""
        connection = apsw.Connection(
            str(path), flags=apsw.SQLITE_OPEN_READONLY, statementcachesize=STATEMENTS_KEPT
        )
        _configure(connection, cache_kib=CACHE_KIB_READER)
        connection.pragma("query_only", True)
        return cls(connection, limits)

    def _harden(self) -> None:
        connection, limits = self.connection, self.limits
        connection.pragma("foreign_keys", True)
        connection.drop_modules(MODULES)
        install_bounded(connection)
        for option, value in (
            (apsw.SQLITE_DBCONFIG_DEFENSIVE, 1),
            (apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 0),
            (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),
            (apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0),
            (apsw.SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, 0),
        ):
            connection.config(option, value)
        for limit, most in (
            (apsw.SQLITE_LIMIT_SQL_LENGTH, limits.statement_bytes_max),
            (apsw.SQLITE_LIMIT_LENGTH, limits.value_bytes_max),
            (apsw.SQLITE_LIMIT_COLUMN, limits.columns_max),
            (apsw.SQLITE_LIMIT_EXPR_DEPTH, limits.expression_depth_max),
            (apsw.SQLITE_LIMIT_COMPOUND_SELECT, limits.compound_selects_max),
            (apsw.SQLITE_LIMIT_VDBE_OP, limits.instructions_max),
            (apsw.SQLITE_LIMIT_FUNCTION_ARG, limits.function_arguments_max),
            (apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, limits.pattern_bytes_max),
            (apsw.SQLITE_LIMIT_VARIABLE_NUMBER, limits.variables_max),
            (apsw.SQLITE_LIMIT_TRIGGER_DEPTH, limits.trigger_depth_max),
            (apsw.SQLITE_LIMIT_ATTACHED, 0),
            (apsw.SQLITE_LIMIT_WORKER_THREADS, 0),
        ):
            connection.limit(limit, most)
        connection.authorizer = self._authorize

    # What SQLite asks.

    def _authorize(
        self,
        action: int,
        first: str | None,
        second: str | None,
        schema: str | None,
        _inner: str | None,
    ) -> int:
        if self._is_internal:
            return apsw.SQLITE_OK
        self.prepares += 1
        reason = denial(action, first, second, schema)
        if reason is not None:
            self._denied = (action, reason)
            return apsw.SQLITE_DENY
        found = traits(action, first, second)
        if found is not Trait.NONE:
            self._found |= found
            if Trait.SETS in found:  # SQLite sets it now, not when the statement runs
                self._has_changed_settings = True
        return apsw.SQLITE_OK

    def _is_late(self) -> bool:
        now = time.monotonic()
        if now < self._stop_at or self._is_internal:
            return False
        # Once: the kernel may have run something else meanwhile, and a point read is then done
        # before the next look at the clock.
        if not self._grace_s:
            return True
        self._stop_at = now + self._grace_s
        self._grace_s = 0.0
        return False

    def _cursor_for_planning(self) -> apsw.Cursor:
        cursor = self.connection.cursor()
        cursor.exec_trace = self._abort_before_first_step
        return cursor

    def _abort_before_first_step(self, cursor: apsw.Cursor, sql: str, _bindings: object) -> bool:
        self._prepared = Prepared(
            is_readonly=cursor.is_readonly,
            is_explain=cursor.is_explain != 0,
            parameters=cursor.bindings_count,
            columns=tuple([column[0] for column in cursor.get_description()]),
            found=self._found,
        )
        self._prepared_text = sql
        return False

    # What the engine asks.

    def prepare(self, sql: str) -> Prepared:
        """Ask SQLite what a statement is, without running it. Raises `StatementRefused`."""
        if "\0" in sql:
            raise StatementRefused(
                "unrecognized token: a NUL character in the SQL text",
                "bind a value that holds NUL as a parameter",
            )
        most = self.limits.statement_bytes_max
        if len(sql) > most or (not sql.isascii() and len(sql.encode("utf-8", "replace")) > most):
            raise StatementRefused(
                "statement too long: SQLITE_TOOBIG", f"one statement has at most {most} bytes"
            )
        before = self.prepares
        try:
            prepared = self._prepare(sql, can_cache=True)
        except StatementRefused:
            if not self._sees_newer_schema():
                raise
            prepared = self._prepare(sql, can_cache=True)
        if self.prepares == before:  # found in apsw's cache, or SQLite had nothing to ask
            prepared = self._prepare(sql, can_cache=False)
        if self.prepares == before:  # REINDEX and VACUUM ask nothing
            prepared = prepared._replace(found=Trait.WRITES | Trait.SCHEMA)
        if names_hidden(sql, prepared.found):
            raise StatementRefused(_HIDDEN_TEXT, _HIDDEN_HINT)
        return prepared

    def _sees_newer_schema(self) -> bool:
        """Whether another connection has changed the schema; this one knows it then.

        SQLite looks for that when a statement runs, not when it is prepared, and after some errors
        only: it would not find the column that an ALTER TABLE is about.
        """
        version = self.schema_version()
        if version == self._schema_version:
            return False
        self.execute_internal("SELECT 1 FROM sqlite_schema LIMIT 0")
        self._schema_version = version
        return True

    def _prepare(self, sql: str, *, can_cache: bool) -> Prepared:
        self._found = Trait.NONE
        self._denied = None
        parameters = sql.count("?")  # a guess, which saves an exception
        try:
            try:
                self._planning.execute(sql, (None,) * parameters, can_cache=can_cache)
            except apsw.BindingsError:
                parameters = self._planning.bindings_count
                self._planning.execute(sql, (None,) * parameters, can_cache=can_cache)
        except apsw.ExecTraceAbort:
            pass
        except (apsw.Error, UnicodeError) as exc:
            raise self.refusal(exc) from exc
        finally:  # the statement goes where whoever runs it finds it
            self._planning.close(True)
            self._planning = self._cursor_for_planning()
        prepared, self._prepared = self._prepared, None
        if prepared is None or len(self._prepared_text) != len(sql):
            raise StatementRefused("A prepared SQL statement must contain only one statement.")
        return prepared

    def explain(self, sql: str, parameters: int) -> list[tuple[SqlValue, ...]]:
        """The program that SQLite makes of a statement; empty where it does not tell, or too much.

        Raises `DeadlineExceeded`, `BudgetExceeded`.
        """
        if sql[:6].upper() == "PRAGMA":  # SQLite sets some settings already when it prepares one
            return []
        before = self.prepares, self._found, self._denied
        try:
            values = (None,) * parameters
            listing = self._explaining.execute(f"EXPLAIN {sql}", values, can_cache=False)
            found = list(islice(listing, _INSTRUCTIONS_LISTED_MAX + 1))
            return found if len(found) <= _INSTRUCTIONS_LISTED_MAX else []
        except apsw.InterruptError as exc:
            raise self.refusal(exc) from exc
        except (apsw.Error, UnicodeError):
            return []  # whoever runs the statement hears the reason
        finally:
            self._explaining.close(True)
            self._explaining = self.connection.cursor()
            self.prepares, self._found, self._denied = before

    def schema_version(self) -> int:
        """Another number after each change of the schema; also while a statement runs."""
        self._is_internal = True
        try:
            ((version,),) = self._explaining.execute(_marked("PRAGMA schema_version")).fetchall()
        except apsw.Error as exc:
            raise self.refusal(exc) from exc
        finally:
            self._is_internal = False
        assert isinstance(version, int)
        return version

    def start_counting(self) -> None:
        """Have SQLite tell `counters` of the statement that runs next."""
        self.counters = None
        self.connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, self._on_profile)

    def stop_counting(self) -> None:
        """Ask for no more counters; they cost some microseconds."""
        self.connection.trace_v2(0, None)

    def _on_profile(self, event: dict[str, Any]) -> None:
        status = event["stmt_status"]  # a virtual table's own statements come before it
        self.counters = Counters(
            status["SQLITE_STMTSTATUS_FULLSCAN_STEP"],
            status["SQLITE_STMTSTATUS_AUTOINDEX"],
            status["SQLITE_STMTSTATUS_VM_STEP"],
        )

    def run_once(self, sql: str) -> int:
        """Run a caller's statement that will not come again; how many rows it gave, now dropped.

        That it names what it must not may be found only after it has run: whoever calls undoes
        all then. Raises what `run` of `engine/statements.py` raises.
        """
        if "\0" in sql:
            raise StatementRefused("unrecognized token: a NUL character in the SQL text")
        self._found = Trait.NONE
        self._denied = None
        rows = 0
        try:
            for _row in self.cursor.execute(sql, can_cache=False):
                rows += 1
        except apsw.BindingsError as exc:
            self.forget_cursor()
            raise StatementRefused("Wrong number of parameter bindings for SQL query.") from exc
        except (apsw.Error, UnicodeError) as exc:
            self.forget_cursor()
            raise self.refusal(exc) from exc
        found = self._found
        if found is not Trait.NONE and found is not Trait.SLOW and names_hidden(sql, found):
            raise StatementRefused(_HIDDEN_TEXT, _HIDDEN_HINT)
        return rows

    @property
    def has_nested_views(self) -> bool:
        """Whether the statement of `run_once` may have: then `check_views` is due."""
        return may_nest_views(self._found)

    def check_views(self) -> None:
        """Refuse what would make SQLite copy views without end; the caller undoes it."""
        views = self.execute_internal("SELECT name, sql FROM sqlite_schema WHERE type = 'view'")
        if copies({str(name): str(sql) for name, sql in views}) > COPIES_MAX:
            raise StatementRefused(
                "views are nested too deeply: SQLITE_ERROR",
                f"with it a view would stand for more than {COPIES_MAX} copies of others: have it "
                "use tables, or each view once",
            )

    def execute_internal(
        self, sql: str, params: Sequence[SqlValue] = ()
    ) -> list[tuple[SqlValue, ...]]:
        """Run one of the server's own statements, past the authorizer and the clock.

        Raises what `run` raises: `StatementRefused` for a deferred foreign key at COMMIT, too.
        """
        self._is_internal = True
        try:
            return self.cursor.execute(_marked(sql), params).fetchall()
        except apsw.Error as exc:
            raise self.refusal(exc) from exc
        finally:
            self._is_internal = False

    def vacuum(self) -> None:
        """Run VACUUM on the writer; it needs one attached database, which nobody else may have.

        Raises `StatementRefused` (a full disk), `DatabaseDamaged`.
        """
        self.connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 1)
        try:
            self.execute_internal("VACUUM")
        finally:
            self.connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)

    def limit_time(self, budget_s: float | None) -> "_TimeLimit":
        """Return a context in which statements have `budget_s` seconds in all.

        It is the frame of one request: settings that the request changes end with it.
        """
        self._time_limit.budget_s = budget_s
        return self._time_limit

    def start_request(self, budget_s: float | None) -> None:
        """Begin a request: start its clock."""
        assert not self.is_in_request, "one request at a time"
        self.is_in_request = True
        self.result_bytes = 0
        if self._has_changed_settings:
            self._restore_settings()
        if budget_s is not None and budget_s <= INLINE_S_MAX:
            self._stop_at = time.monotonic() + budget_s
            self._grace_s = budget_s
            if not self.is_inline:
                self.is_inline = True
                self.result_bytes_bound = self._inline_result_bytes
                self.connection.set_progress_handler(self._is_late, _INLINE_STEPS)
            return
        if self.is_inline:
            self.is_inline = False
            self.result_bytes_bound = self.limits.result_bytes_max
            self.connection.set_progress_handler(None)
        self._watch.stop_at = math.inf if budget_s is None else time.monotonic() + budget_s
        self._watch.stopped_for = ""
        WATCHDOG.add(self._watch)

    def end_request(self) -> None:
        """End a request: its settings are undone."""
        if not self.is_inline:
            WATCHDOG.remove(self._watch)
        self.is_in_request = False
        self._stop_at = math.inf
        if self._has_changed_settings:
            self._restore_settings()

    def check_time(self) -> None:
        """Raise what `run` raises if the request's time is over between two statements.

        SQLite's own look at the clock comes after some steps of one statement: many short ones
        would never come to it.
        """
        if self.is_inline:
            if time.monotonic() >= self._stop_at:
                raise self._stopped()
        elif self._watch.stopped_for:
            raise self._stopped()

    def interrupt(self) -> None:
        """Stop the statement that runs now, if any. From any thread."""
        try:
            self.connection.interrupt()
        except apsw.ConnectionClosedError:
            pass  # nothing runs any more

    def _interrupt_callers(self) -> None:
        if not self._is_internal:
            self.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close(True)

    def forget_cursor(self) -> None:
        """Leave a statement that did not come to its end; it must not hold a snapshot open."""
        self.cursor.close(True)
        self.cursor = self.connection.cursor()

    def refusal(self, exc: Exception) -> Exception:
        """Turn what apsw raised for SQL from outside into an error of the engine."""
        if isinstance(exc, apsw.InterruptError):
            return self._stopped()
        if isinstance(exc, apsw.FullError):
            return self._full(exc)
        if isinstance(exc, apsw.Error):
            return DatabaseDamaged(describe_error(exc)) if is_damage(exc) else self._refused(exc)
        if isinstance(exc, UnicodeDecodeError):
            return StatementRefused(
                "a TEXT value is not valid UTF-8", "read it as a blob: CAST(column AS BLOB)"
            )
        if isinstance(exc, UnicodeEncodeError):
            return StatementRefused(
                "the text holds half of a surrogate pair, which is no character"
            )
        if isinstance(exc, OverflowError):
            return StatementRefused("integer overflow: a parameter has more than 64 bits")
        return exc

    def _full(self, exc: apsw.FullError) -> Exception:
        """SQLite says the same of a full disk, of rowids that ran out, and of a full database."""
        if shutil.disk_usage(Path(self.connection.filename).parent).free < _FREE_BYTES_MIN:
            return DiskFull("the disk is full; nothing was done: free some space and try again")
        # Only AUTOINCREMENT runs out of rowids: other tables look for a free one.
        if self.connection.table_exists("main", "sqlite_sequence") and self.execute_internal(
            "SELECT 1 FROM sqlite_sequence WHERE seq = 9223372036854775807"
        ):
            return self._refused(exc)
        if not self._may_be_full():
            return DiskFull("the disk takes no more; nothing was done: is there a quota?")
        return StatementRefused(
            "Exceeded maximum DB size.",
            f"a database has at most {self.limits.database_bytes_max} bytes: delete what is not "
            "needed, or have the operator raise --sql-database-bytes-max",
        )

    def _may_be_full(self) -> bool:
        """Whether the database can have come to its largest size.

        What a transaction adds is in the WAL, or still in the cache.
        """
        pages = self.execute_internal("PRAGMA page_count")[0][0]
        assert isinstance(pages, int)
        wal = Path(self.connection.filename_wal)
        added = (wal.stat().st_size if wal.exists() else 0) + _UNSPILLED_BYTES_MAX
        return pages * PAGE_SIZE + added >= self.limits.database_bytes_max

    def _refused(self, exc: apsw.Error) -> StatementRefused:
        denied, self._denied = self._denied, None
        text = describe_error(exc)
        if NO_SUCH_HIDDEN.match(text) is not None:  # whether it is there is not told
            return StatementRefused(_HIDDEN_TEXT, _HIDDEN_HINT)
        if denied is None or not ("not authorized" in text or "is prohibited" in text):
            return StatementRefused(text, hint_for(exc))
        action, reason = denied
        if action in (apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT):
            return StatementRefused(_TRANSACTION_TEXT)
        return StatementRefused(text, reason)

    def _stopped(self) -> Exception:
        if self.is_inline:
            is_late, reason = time.monotonic() >= self._stop_at, ""
        else:
            is_late, reason = self._watch.stopped_for == TIME, self._watch.stopped_for
        if is_late:
            return BudgetExceeded("the statement took longer than the time it was given")
        if reason:
            return StatementRefused(
                f"the statement needs {reason}: SQLITE_INTERRUPT",
                "sort or aggregate less at a time",
            )
        return DeadlineExceeded("the statement was stopped before its end")

    def _restore_settings(self) -> None:
        if not self.connection.in_transaction:
            for text in _SETTINGS:
                self.execute_internal(text)
            self._has_changed_settings = False


class _TimeLimit:
    """The context that `Sandbox.limit_time` returns; one per sandbox, so not nested."""

    __slots__ = ("_sandbox", "budget_s")

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.budget_s: float | None = None

    def __enter__(self) -> None:
        self._sandbox.start_request(self.budget_s)

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._sandbox.end_request()


def open_guard(path: Path) -> apsw.Connection:
    """Open the connection for injections and checkpoints. It never runs SQL from outside."""
    connection = apsw.Connection(str(path))
    _configure(connection, cache_kib=2 * 1024)
    connection.pragma("journal_mode", "wal")
    return connection


@lru_cache(maxsize=256)
def _marked(sql: str) -> str:
    return f"/*{_SECRET}*/{sql}"


def _configure(connection: apsw.Connection, *, cache_kib: int) -> None:
    if apsw.hard_heap_limit(-1) == 0:  # of the process; somebody else's setting stays
        apsw.soft_heap_limit(HEAP_SOFT_BYTES)
        apsw.hard_heap_limit(HEAP_HARD_BYTES)
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.pragma("cache_size", -cache_kib)
    connection.pragma("synchronous", "off")
    connection.pragma("mmap_size", 0)
    connection.pragma("cell_size_check", True)
    connection.wal_autocheckpoint(0)
