"""The counts that are noted as D1's are those of D1's own SQLite, in workerd."""

import json
from pathlib import Path

from tests.clients.programs import CLIENTS, node_programs, run
from tests.engine.d1_row_counts import CASES, WORKERD


def test_noted_counts_are_d1s(tmp_path: Path) -> None:
    """And so every difference from ours is one that `tests/engine/test_row_counts.py` knows."""
    statements = tmp_path / "statements.json"
    statements.write_text(json.dumps([case.sql for case in CASES]))
    script = CLIENTS / "js" / "d1_row_counts.js"
    told = json.loads(run(node_programs()[0], script, statements).stdout)
    assert told["version"] == WORKERD
    wrong = [
        (case.sql, case.d1, tuple(got))
        for case, got in zip(CASES, told["counts"], strict=True)
        if list(case.d1) != got
    ]
    assert wrong == []
