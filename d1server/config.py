"""What a node is told before it starts: one value, read once, passed down.

A setting may stand in three places; the stronger one wins: a flag, then `D1SERVER_<NAME>`
in the environment, then a key of the TOML file named by `--config`. `resolve` is pure: it
takes the three as mappings and returns a `NodeConfig`, or raises `ConfigInvalid` with the
place where the bad value stands.

Unknown keys of the file are refused. Unknown variables are not: others may use the prefix
(Kubernetes sets `D1SERVER_PORT` and more beside a service of that name).
"""

import dataclasses
import difflib
import enum
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from d1server.access.grants import TOKEN_PREFIX
from d1server.tls import TlsFiles
from engine.limits import SqlLimits

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

ENV_PREFIX: Final = "D1SERVER_"
REPLICATION_PORT_OFFSET: Final = 100  # leaves room for replicas on the ports after the primary's
NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
REGION_PATTERN: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}")
URL_PATTERN: Final = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?", re.ASCII)
SIZE_PATTERN: Final = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|TiB)?", re.IGNORECASE)
SIZE_UNITS: Final = {"b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "tib": 1024 * GIB}
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("text", "json")


class ConfigInvalid(Exception):
    """A setting is missing or wrong; the message names its place and says what is wanted."""


class Role(enum.Enum):
    """What a node is for its databases."""

    PRIMARY = "primary"  # takes the writes
    REPLICA = "replica"  # follows a primary


class Address(NamedTuple):
    """Where to listen or whom to call. Port 0: the system chooses."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Return the address in `host:port`, `[v6]:port` or `:port` (this machine only)."""
        if "/" in text:
            raise ValueError("wants HOST:PORT without a scheme, such as 127.0.0.1:8787")
        host, colon, port = text.strip().rpartition(":")
        if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ValueError("wants HOST:PORT, such as 127.0.0.1:8787")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError("wants brackets around an IPv6 address, such as [::1]:8787")
        if any(char.isspace() for char in host):
            raise ValueError("wants HOST:PORT without spaces, such as 127.0.0.1:8787")
        return cls(host or "127.0.0.1", int(port))


DEFAULT_LISTEN: Final = Address("127.0.0.1", 8787)  # from outside only if somebody says so


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything that a node is told."""

    role: Role
    data_dir: Path  # one node per folder
    listen: Address = DEFAULT_LISTEN  # HTTP
    replication: Address | None = None  # where replicas call; set exactly on a primary
    primary: Address | None = None  # its replication address; set exactly on a replica
    public_url: str | None = None  # in signed URLs, where clients cannot reach `listen` itself
    region: str = "ENAM"  # shown in `meta.served_by_region`
    sql: SqlLimits = field(default_factory=SqlLimits)  # `sql_statement_bytes_max` and so on
    name: str = ""  # in `meta.served_by` and the primary's list of replicas; empty: see `named`
    query_deadline_s: float = 30.0  # D1's own limit for one request
    read_wait_s: float = 5.0  # then the request's own policy decides: primary, stale or error
    body_bytes_max: int = 32 * MIB  # one request is in memory as a whole
    log_bytes_max: int = 1 * GIB  # a replica further behind takes a snapshot
    idle_close_s: float = 60.0  # then a database gives its connections and descriptors back
    open_databases_max: int = 256  # bounds descriptors and page caches
    ready_lag_s_max: float = 10.0  # a replica further behind tells load balancers so
    replication_token: str | None = field(default=None, repr=False)  # a replica's, for the link
    link_secret: str | None = field(
        default=None, repr=False
    )  # as a token, but both ends are told it
    tls_cert: Path | None = None  # with its key: HTTP and the link are TLS
    tls_key: Path | None = None
    tls_ca: Path | None = None  # the link's two ends show certificates of this CA
    insecure: bool = False  # open to others without tokens: a network that is a fence by itself
    open_metrics: bool = False  # /metrics without a token, for scrapers that cannot send one
    log_level: str = "info"
    log_format: str = "text"  # "json": one object per line, for collectors

    def named(self, node_id: str) -> "NodeConfig":
        """The same with a name: nodes that were given none have one each, by their folder's id."""
        made = f"{self.role.value}-{self.region.lower()}-{node_id[:6]}"
        return self if self.name else dataclasses.replace(self, name=made)

    @property
    def url(self) -> str:
        """Where clients reach the node, if they reach the address that it listens on."""
        return f"{'https' if self.tls_cert else 'http'}://{self.listen}"

    @property
    def tls(self) -> TlsFiles:
        """The files of TLS; false if there are none."""
        return TlsFiles(cert=self.tls_cert, key=self.tls_key, ca=self.tls_ca)


def _parse_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("wants text in quotes")
    return value


def _parse_address(value: object) -> Address:
    return Address.parse(_parse_text(value))


def _parse_url(value: object) -> str:
    text = _parse_text(value).rstrip("/")
    if not URL_PATTERN.fullmatch(text):
        raise ValueError("wants a URL such as https://db.example.com")
    return text


def _parse_path(value: object) -> Path:
    text = str(value) if isinstance(value, Path) else _parse_text(value)
    if not text or "\0" in text:
        raise ValueError("wants a path")
    return Path(text).expanduser()


def _parse_name(value: object) -> str:
    text = _parse_text(value)
    if not NAME_PATTERN.fullmatch(text):
        raise ValueError("wants up to 63 letters, digits, '.', '_' or '-'")
    return text


def _parse_region(value: object) -> str:
    text = _parse_text(value)
    if not REGION_PATTERN.fullmatch(text):
        raise ValueError("wants a region such as WNAM, ENAM, WEUR, EEUR, APAC, OC")
    return text.upper()


def _one_of(choices: tuple[str, ...]) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = _parse_text(value).lower()
        if text not in choices:
            raise ValueError(f"wants one of {', '.join(choices)}")
        return text

    return parse


def _parse_flag(value: object) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    text = str(value).strip().lower()
    if text not in known:
        raise ValueError("wants true or false")
    return known[text]


def parse_access_token(value: object) -> str:
    """Return the token in a text, or in the file that `@FILE` names. Raises `ValueError`."""
    text = _parse_text(value).strip()
    if text.startswith("@"):
        try:
            text = Path(text[1:]).expanduser().read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as exc:
            reason = getattr(exc, "strerror", None) or "no text"
            raise ValueError(f"the file cannot be read: {reason}") from exc
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("wants an access token, or @FILE with one in it")
    return text


def _parse_own_token(value: object) -> str:
    text = parse_access_token(value)
    if not text.startswith(TOKEN_PREFIX):
        raise ValueError(f"wants a token of `d1server token create`, which begins {TOKEN_PREFIX}")
    return text


def _seconds(least: float, most: float) -> Callable[[object], float]:
    def parse(value: object) -> float:
        try:
            number = float(value) if isinstance(value, str | int | float) else None
        except ValueError:
            number = None
        if number is None or isinstance(value, bool) or not least <= number <= most:
            raise ValueError(f"wants seconds, from {least:g} to {most:g}")
        return number

    return parse


def _count(least: int, most: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        text = str(value).strip()
        is_number = text.isascii() and text.isdigit() and len(text) <= 18
        if not is_number or not least <= int(text) <= most:
            raise ValueError(f"wants a number from {least} to {most}")
        return int(text)

    return parse


def _size(least: int, most: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        match = SIZE_PATTERN.fullmatch(str(value).strip()) if len(str(value)) <= 32 else None
        size = int(match[1]) * SIZE_UNITS[(match[2] or "B").lower()] if match else -1
        if not least <= size <= most:
            raise ValueError(f"wants a size from {least // KIB}KiB to {most // MIB}MiB")
        return size

    return parse


SQL_PREFIX: Final = "sql_"

# The most is what SQLite was built for; the least, what the server's own statements need.
_SQL_PARSERS: Final[Mapping[str, Callable[[object], int]]] = {
    "statement_bytes_max": _size(16 * KIB, GIB),
    "value_bytes_max": _size(64 * KIB, 900 * MIB),
    "columns_max": _count(32, 2000),
    "expression_depth_max": _count(10, 1000),
    "compound_selects_max": _count(2, 500),
    "instructions_max": _count(1000, 250_000_000),
    "function_arguments_max": _count(8, 1000),
    "pattern_bytes_max": _count(1, 50_000),
    "variables_max": _count(32, 32_766),
    "trigger_depth_max": _count(1, 1000),
    "database_bytes_max": _size(MIB, 16 * 1024 * GIB),
    "result_bytes_max": _size(64 * KIB, GIB),
    "memory_bytes_max": _size(MIB, 1024 * GIB),
    "spill_bytes_max": _size(MIB, 1024 * GIB),
}
assert _SQL_PARSERS.keys() == {limit.name for limit in dataclasses.fields(SqlLimits)}

PARSERS: Final[Mapping[str, Callable[[object], Any]]] = {
    "data_dir": _parse_path,
    "listen": _parse_address,
    "replication": _parse_address,
    "primary": _parse_address,
    "public_url": _parse_url,
    "region": _parse_region,
    "name": _parse_name,
    **{SQL_PREFIX + limit: parser for limit, parser in _SQL_PARSERS.items()},
    "query_deadline_s": _seconds(0.01, 3600),
    "read_wait_s": _seconds(0, 3600),
    "body_bytes_max": _size(KIB, GIB),
    "log_bytes_max": _size(MIB, 1024 * GIB),
    "idle_close_s": _seconds(0.1, 86400),
    "open_databases_max": _count(1, 100_000),
    "ready_lag_s_max": _seconds(0.1, 86400),
    "replication_token": _parse_own_token,
    "link_secret": _parse_own_token,
    "tls_cert": _parse_path,
    "tls_key": _parse_path,
    "tls_ca": _parse_path,
    "insecure": _parse_flag,
    "open_metrics": _parse_flag,
    "log_level": _one_of(LOG_LEVELS),
    "log_format": _one_of(LOG_FORMATS),
}


SECRETS: Final = frozenset({"replication_token", "link_secret"})  # never shown


def flag(setting: str) -> str:
    """Return how a setting is spelled on the command line."""
    return "--" + setting.replace("_", "-")


def read_file(path: Path) -> dict[str, object]:
    """Return the keys of a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigInvalid(f"--config: cannot read {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigInvalid(f"--config: {path} is no TOML: {exc}") from exc


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as it was given, and the place to name if it is wrong."""

    value: object
    place: str


def _gather(
    flags: Mapping[str, object], env: Mapping[str, str], file: Mapping[str, object], file_name: str
) -> dict[str, _Given]:
    """Return the strongest value of each setting that was given at all."""
    given = {}
    for setting in PARSERS:
        variable = ENV_PREFIX + setting.upper()
        if setting in file:
            given[setting] = _Given(file[setting], f"{file_name}: {setting}")
        if env.get(variable):  # compose files pass an unset variable as an empty one
            given[setting] = _Given(env[variable], variable)
        if flags.get(setting) is not None:
            given[setting] = _Given(flags[setting], flag(setting))
    return given


def _refuse_unknown(file: Mapping[str, object], file_name: str) -> None:
    for key in file:
        if key not in PARSERS:
            near = difflib.get_close_matches(key, PARSERS, n=1)
            hint = f"; is {near[0]} meant?" if near else f"; known are {', '.join(PARSERS)}"
            raise ConfigInvalid(f"{file_name}: {key} is no setting{hint}")


def resolve(
    role: Role,
    *,
    flags: Mapping[str, object],
    env: Mapping[str, str],
    file: Mapping[str, object],
    file_name: str = "config file",
) -> NodeConfig:
    """Return the configuration of a node; flags are stronger than `env`, that than `file`."""
    _refuse_unknown(file, file_name)
    given = _gather(flags, env, file, file_name)
    values: dict[str, Any] = {}
    for setting, source in given.items():
        try:
            values[setting] = PARSERS[setting](source.value)
        except ValueError as exc:
            shown = "" if setting in SECRETS else f"{source.value!r}: "
            raise ConfigInvalid(f"{source.place}: {shown}{exc}") from exc
    if "data_dir" not in values:
        raise ConfigInvalid(f"a {role.value} needs a folder: give --data-dir")
    _settle_links(role, given, values)
    _settle_tls(given)
    listen: Address = values.setdefault("listen", DEFAULT_LISTEN)
    if role is Role.PRIMARY and values["replication"] is None:
        values["replication"] = replication_beside(listen)
    values.setdefault("region", "ENAM")
    given_sql = [setting for setting in values if setting.startswith(SQL_PREFIX)]
    sql = SqlLimits(**{at.removeprefix(SQL_PREFIX): values.pop(at) for at in given_sql})
    return NodeConfig(role=role, sql=sql, **values)


def _settle_links(role: Role, given: Mapping[str, _Given], values: dict[str, Any]) -> None:
    """Check that the addresses fit the role: a primary is called, a replica calls."""
    foreign = ("primary", "replication_token") if role is Role.PRIMARY else ("replication",)
    for setting in foreign:
        if setting in given:
            raise ConfigInvalid(f"{given[setting].place}: a {role.value} has no such setting")
        values[setting] = None
    if role is Role.PRIMARY:
        values.setdefault("replication", None)
    elif "primary" not in values:
        raise ConfigInvalid(
            "a replica needs its primary: give --primary HOST:PORT, the --replication address there"
        )
    elif values["primary"].port == 0:
        raise ConfigInvalid(f"{given['primary'].place}: port 0 cannot be called")


def _settle_tls(given: Mapping[str, _Given]) -> None:
    """Check that certificate and key come together."""
    for one, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if one in given and other not in given:
            raise ConfigInvalid(f"{given[one].place}: needs {flag(other)} as well")


def replication_beside(listen: Address) -> Address:
    """Return the replication address that goes with an HTTP address if none was given."""
    if listen.port == 0:
        return listen
    up = listen.port + REPLICATION_PORT_OFFSET
    return Address(listen.host, up if up <= 65535 else listen.port - REPLICATION_PORT_OFFSET)


assert {"role", "sql"} | {name for name in PARSERS if not name.startswith(SQL_PREFIX)} == {
    field.name for field in dataclasses.fields(NodeConfig)
}
