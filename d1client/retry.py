"""When to send a request again, and after how long: pure decisions, no I/O.

A request is repeated only where that cannot do it twice:

1. the server said `x-should-retry: true`: it did not execute it;
2. no byte of it was sent: the connection was refused or lost before;
3. it was sent and its answer is lost, and it is *repeatable*: surely a read, or a write
   that carries an idempotency key.

`x-should-retry: false` ends everything, whatever else is true. Tries and total time are bounded.
"""

import enum
from dataclasses import dataclass


class Outcome(enum.Enum):
    """What one try came to, as far as this side can know."""

    DONE = "done"  # an answer of the server that stands: a result
    REFUSED = "refused"  # an answer of the server that stands: the request is wrong
    NOT_DONE = "not done"  # surely not executed
    UNKNOWN = "unknown"  # sent, and no answer that tells
    FINAL_UNKNOWN = "final"  # the server itself cannot tell, and says not to repeat


# Statuses that say "not now" before anything was executed, when no header says more.
NOT_NOW_STATUSES = frozenset({425, 429})


def outcome_of_answer(status: int, *, should_retry: bool | None) -> Outcome:
    """Classify an answer by its status and its `x-should-retry` header."""
    if 200 <= status < 300:
        return Outcome.DONE
    if should_retry is True:
        return Outcome.NOT_DONE
    if status in NOT_NOW_STATUSES and should_retry is None:
        return Outcome.NOT_DONE
    if 400 <= status < 500:
        return Outcome.REFUSED
    return Outcome.UNKNOWN if should_retry is None else Outcome.FINAL_UNKNOWN


def may_repeat(outcome: Outcome, *, repeatable: bool) -> bool:
    """Tell whether a request that came to `outcome` may be sent once more."""
    return outcome is Outcome.NOT_DONE or (outcome is Outcome.UNKNOWN and repeatable)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, how long and how patiently a request is repeated."""

    tries_max: int = 5  # the first try included
    total_s_max: float = 20.0  # no try is begun later than this after the first
    delay_s_first: float = 0.05
    delay_s_max: float = 2.0

    def next_delay_s(
        self, tries: int, *, elapsed_s: float, retry_after_s: float | None, chance: float
    ) -> float | None:
        """Return how long to wait before another try, or None to give up.

        `tries` were made, `chance` is uniform in [0, 1). The delay doubles with each try and is
        drawn from its upper half, so that clients cut off together do not return together.
        A server's `retry-after` is a lower bound.
        """
        if tries >= self.tries_max:
            return None
        ceiling = min(self.delay_s_max, self.delay_s_first * float(2 ** min(tries - 1, 30)))
        delay_s = max(ceiling * (0.5 + chance / 2), retry_after_s or 0.0)
        return delay_s if elapsed_s + delay_s <= self.total_s_max else None
