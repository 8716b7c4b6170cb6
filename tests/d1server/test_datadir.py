"""A node's folder: one process, one role, one format, and a clear word when it is not ours."""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from d1server.datadir import FORMAT, DataDirRefused, open_data_dir
from engine.files import Disk

DISK = Disk()
HOLDER = """
import sys
from pathlib import Path
from d1server.datadir import open_data_dir
from engine.files import Disk
with open_data_dir(Path(sys.argv[1]), "primary", Disk()):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_new_folder_is_a_new_cluster_for_a_primary(tmp_path: Path) -> None:
    with open_data_dir(tmp_path / "a", "primary", DISK) as one:
        assert str(uuid.UUID(one.identity.cluster)) == one.identity.cluster
        assert one.databases.is_dir()
    with open_data_dir(tmp_path / "b", "primary", DISK) as other:
        assert other.identity.cluster != one.identity.cluster
    with open_data_dir(tmp_path / "a", "primary", DISK) as again:
        assert again.identity == one.identity


def test_a_replica_joins_once(tmp_path: Path) -> None:
    with open_data_dir(tmp_path, "replica", DISK) as data:
        assert data.identity.cluster == ""
        data.join("7d7e0b5e-0000-4000-8000-000000000000")
    with open_data_dir(tmp_path, "replica", DISK) as again:
        assert again.identity == data.identity
        assert again.identity.cluster.startswith("7d7e0b5e")


def test_a_folder_in_use_is_refused_with_the_pid(tmp_path: Path) -> None:
    """Also by another process; the lock ends with the process, however it ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(DataDirRefused, match=rf"in use .*pid {holder.pid}"),
            open_data_dir(tmp_path, "primary", DISK),
        ):
            pass
        holder.kill()
    with open_data_dir(tmp_path, "primary", DISK):
        pass


def test_a_folder_of_the_other_role_is_refused(tmp_path: Path) -> None:
    with open_data_dir(tmp_path, "primary", DISK):
        pass
    with (
        pytest.raises(DataDirRefused, match="folder of a primary"),
        open_data_dir(tmp_path, "replica", DISK),
    ):
        pass


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    with open_data_dir(tmp_path, "primary", DISK):
        pass
    toml = tmp_path / "node.toml"
    toml.write_text(toml.read_text().replace(f"format = {FORMAT}", f"format = {FORMAT + 1}"))
    with (
        pytest.raises(DataDirRefused, match="newer d1server"),
        open_data_dir(tmp_path, "primary", DISK),
    ):
        pass


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not toml",
        'format = "x"\nrole = "primary"\nnode = "a"\ncluster = "b"\n',
        'format = [1]\nrole = "primary"\nnode = "a"\ncluster = "b"\n',
        'format = 1\nrole = "primary"\nnode = "a"\ncluster = ""\n',
        'format = 1\nrole = "primary"\nnode = "a"\ncluster = "../x"\n',
        "format = 1\n",
        "\x00",
    ],
)
def test_a_broken_identity_is_refused_not_replaced(tmp_path: Path, text: str) -> None:
    """A new one would give the databases to another cluster."""
    (tmp_path / "node.toml").write_text(text)
    with (
        pytest.raises(DataDirRefused, match=r"node\.toml"),
        open_data_dir(tmp_path, "primary", DISK),
    ):
        pass
    assert (tmp_path / "node.toml").read_text() == text


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(DataDirRefused, match="cannot be used"),
        open_data_dir(tmp_path / "file", "primary", DISK),
    ):
        pass


def test_a_deletion_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    key = uuid.uuid4().bytes
    with open_data_dir(tmp_path, "primary", DISK) as data:
        folder = data.folder(key)
        (folder / "log").mkdir(parents=True)
        (folder / "db.sqlite").write_text("data")
        half = folder.with_name(folder.name + ".deleted")
        folder.rename(half)
        data.finish_deletions()
        assert not half.exists()
        folder.mkdir()
        data.delete(key)
        data.delete(key)
        assert not any(data.databases.iterdir())
