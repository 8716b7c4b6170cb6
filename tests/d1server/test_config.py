"""The configuration: which place wins, what is refused, and that the place is named."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d1server.config import (
    LOG_LEVELS,
    PARSERS,
    Address,
    ConfigInvalid,
    NodeConfig,
    Role,
    flag,
    read_file,
    resolve,
)
from engine.limits import SqlLimits


def primary(
    flags: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    file: Mapping[str, object] | None = None,
) -> NodeConfig:
    """Resolve a primary in ./d."""
    return resolve(
        Role.PRIMARY,
        flags={"data_dir": "d", **(flags or {})},
        env=env or {},
        file=file or {},
        file_name="node.toml",
    )


def test_flag_beats_environment_beats_file() -> None:
    env = {"D1SERVER_REGION": "apac", "D1SERVER_READ_WAIT_S": "2.5"}
    file = {"region": "OC", "read_wait_s": 1, "log_bytes_max": "64MiB"}
    config = primary({"region": "weur"}, env, file)
    assert config.region == "WEUR"
    assert config.read_wait_s == 2.5
    assert config.log_bytes_max == 64 * 1024 * 1024


def test_defaults_need_only_a_folder() -> None:
    config = primary()
    assert config.data_dir == Path("d")
    assert config.listen == Address("127.0.0.1", 8787)
    assert config.replication == Address("127.0.0.1", 8887)
    assert config.primary is None
    assert config.named("0f3c9b7e21d4a865").name == "primary-enam-0f3c9b"


def test_limits_of_sql_are_settings() -> None:
    """Each by its own name, with the values of `SqlLimits` where nothing is said."""
    assert primary().sql == SqlLimits()
    env = {"D1SERVER_SQL_COLUMNS_MAX": "200"}
    config = primary({"sql_database_bytes_max": "2GiB"}, env, {"sql_pattern_bytes_max": 1000})
    expected = SqlLimits(database_bytes_max=2 * 2**30, columns_max=200, pattern_bytes_max=1000)
    assert config.sql == expected
    with pytest.raises(ConfigInvalid, match="--sql-columns-max"):
        primary({"sql_columns_max": "3000"})  # more than SQLite was built for


def test_replica_needs_its_primary() -> None:
    with pytest.raises(ConfigInvalid, match="--primary HOST:PORT"):
        resolve(Role.REPLICA, flags={"data_dir": "d"}, env={}, file={})
    flags = {"data_dir": "d", "primary": "db.example:8887"}
    config = resolve(Role.REPLICA, flags=flags, env={}, file={})
    assert config.primary == Address("db.example", 8887)
    assert config.replication is None


@pytest.mark.parametrize(
    ("role", "flags"),
    [
        (Role.PRIMARY, {"primary": "h:1"}),
        (Role.REPLICA, {"primary": "h:1", "replication": "h:2"}),
    ],
)
def test_setting_of_the_other_role_is_refused(role: Role, flags: dict[str, object]) -> None:
    with pytest.raises(ConfigInvalid, match="has no such setting"):
        resolve(role, flags={"data_dir": "d", **flags}, env={}, file={})


@pytest.mark.parametrize(
    ("flags", "env", "file", "place"),
    [
        ({"listen": "8787"}, {}, {}, "--listen: '8787': wants HOST:PORT"),
        ({}, {"D1SERVER_LISTEN": "http://h:1"}, {}, "D1SERVER_LISTEN: 'http://h:1': wants"),
        ({}, {}, {"read_wait_s": "soon"}, "node.toml: read_wait_s: 'soon': wants seconds"),
        ({}, {}, {"read_wait_s": True}, "node.toml: read_wait_s: True: wants seconds"),
        ({}, {}, {"read_wait_s": float("nan")}, "wants seconds"),
        ({}, {}, {"region": 7}, "node.toml: region: 7: wants text"),
        ({}, {}, {"log_level": "loud"}, "one of debug, info, warning, error"),
        ({}, {}, {"body_bytes_max": "9 parsecs"}, "wants a size from 1KiB to 1024MiB"),
        ({}, {}, {"open_databases_max": 0}, "wants a number from 1"),
        ({"listen": "::1:80"}, {}, {}, "brackets around an IPv6 address"),
        ({"listen": "http://h:1"}, {}, {}, "without a scheme"),
        ({"listen": "h:70000"}, {}, {}, "wants HOST:PORT"),
    ],
)
def test_bad_value_names_its_place(
    flags: dict[str, object], env: dict[str, str], file: dict[str, object], place: str
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        primary(flags, env, file)
    assert place in str(caught.value)


def test_unknown_key_of_the_file_is_refused_with_a_guess() -> None:
    with pytest.raises(ConfigInvalid, match=r"node\.toml: lisen is no setting; is listen meant"):
        primary(file={"lisen": "h:1"})


def test_variables_of_others_are_left_alone() -> None:
    """Kubernetes sets these beside a service called d1server; an empty one is not set."""
    env = {"D1SERVER_PORT": "tcp://10.0.0.1:8787", "D1SERVER_URL": "http://x", "D1SERVER_NAME": ""}
    assert primary(env=env) == primary()


@pytest.mark.parametrize("text", ["127.0.0.1:8787", "[::1]:0", "db.example:65535"])
def test_address_text_round_trips(text: str) -> None:
    assert str(Address.parse(text)) == text


def test_replication_port_stays_within_range() -> None:
    assert primary({"listen": "h:65500"}).replication == Address("h", 65400)
    assert primary({"listen": "h:0"}).replication == Address("h", 0)


def test_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    with pytest.raises(ConfigInvalid, match=r"cannot read .*node\.toml"):
        read_file(path)
    path.write_text("listen = ")
    with pytest.raises(ConfigInvalid, match="is no TOML"):
        read_file(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigInvalid, match="is no TOML"):
        read_file(path)
    path.write_text('listen = "127.0.0.1:9000"\nlog_level = "debug"\n')
    config = primary(file=read_file(path))
    assert (config.listen.port, config.log_level) == (9000, LOG_LEVELS[0])


def test_flags_are_spelled_with_dashes() -> None:
    assert flag("read_wait_s") == "--read-wait-s"


toml_values = st.one_of(
    st.text(max_size=40),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@given(st.sampled_from(sorted(PARSERS)), toml_values)
def test_no_value_is_worse_than_invalid(setting: str, value: object) -> None:
    """Whatever a file holds, the answer is a configuration or `ConfigInvalid`."""
    try:
        primary(file={setting: value})
    except ConfigInvalid as exc:
        message = str(exc)
    else:
        message = setting
    assert setting in message
