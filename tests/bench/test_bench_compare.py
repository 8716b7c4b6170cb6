"""Comparing two checkouts: what the machine does meanwhile does not count."""

from bench import compare
from bench.cluster import SCRATCH, Cluster


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    """Method: one side always costs half of the other, and both ever more."""
    asked: list[str] = []

    def costs(side: str, us: float) -> float:
        asked.append(side)
        return us * len(asked)

    found = compare.compare(
        lambda _round: costs("other", 20.0), lambda _round: costs("this", 10.0), rounds=40
    )
    low, middle, high = found.ratios
    assert 0.45 < low <= middle <= high < 0.55
    assert asked[:4] == ["other", "this", "this", "other"]
    assert "ratio 0.5" in str(found)


def test_a_round_asks_the_chosen_node(standins: Cluster) -> None:
    """Each scenario gets right answers, and the CPU time of a node that served them."""
    options = compare.options_of([str(SCRATCH), "--seconds", "0.2", "--connections", "4"])
    for scenario in compare.SCENARIOS:
        ask = compare.asker(standins, "first-unconstrained", scenario, options)
        assert ask(0) > 0.0
