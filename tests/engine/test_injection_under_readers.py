"""A short run of the long test: injection under concurrent readers and checkpoints."""

from pathlib import Path

from tests.torture.injection import run_injection


def test_no_reader_ever_sees_anything_but_whole_commits(tmp_path: Path) -> None:
    """Two reader processes and a thread check every snapshot while commits go in.

    Method: `tests/torture/injection.py` for three seconds; it also compares the files.
    """
    report = run_injection(tmp_path, seconds=3, seed=5, processes=2)
    assert report.commits > 50
    assert report.files_compared >= 1
    assert sum(reader.short for reader in report.readers) > 10
