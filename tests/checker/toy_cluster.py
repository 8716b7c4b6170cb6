"""A toy of the whole system, correct by default, with one seeded bug on request.

One primary and two replicas as plain dictionaries, sessions that hop between them, logical
time, one random seed: its histories show what the checker accepts and what it must catch.
"""

import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from proto.tokens import Bookmark, CommitToken
from tests.torture.history import (
    Add,
    Append,
    Assign,
    Change,
    Event,
    History,
    Outcome,
    Read,
    Value,
    Write,
    applied,
)

SESSIONS = 5
REPLICAS = ("replica-1", "replica-2")
ACCOUNTS = ("account:0", "account:1", "account:2")
INITIAL: dict[str, Value] = {**dict.fromkeys(ACCOUNTS, 100), "counter:0": 0, "register:0": 0}
KEYS = ("list:0", "list:1", *INITIAL)
BASE_SEQ = 3


class Bug(enum.Enum):
    """What can be wrong with a replicated database, one at a time."""

    LOSES_ACKED = "acknowledges a write and drops it"
    LOSES_TAIL = "a new primary lacks the last acknowledged commits and reuses their numbers"
    FORWARDS_TWICE = "executes a forwarded write twice"
    REPLICA_APPLIES_TWICE = "a replica applies one commit twice"
    REPLICA_SKIPS = "a replica skips one commit"
    REPLICA_REORDERS = "a replica applies two commits in the wrong order"
    IGNORES_BOOKMARK = "a replica answers at once, though it is behind the session's bookmark"
    LIES_ABOUT_STATE = "a replica answers the session's bookmark with older data"
    BOOKMARK_TOO_OLD = "a read answers a bookmark older than what it saw"
    TORN_BATCH = "a replica shows half a transaction"
    HALF_COMMIT = "the primary keeps half a transaction"
    REFUSED_HAPPENS = "a write is answered as refused and yet done"
    SEEN_THEN_GONE = "a write of unknown outcome is read somewhere, and then it is gone"
    SAME_NUMBER = "two writes are acknowledged with one bookmark"
    ACK_TOO_OLD = "a write is acknowledged with the bookmark before its own"
    OUT_OF_REAL_TIME = "a write is put before one that was acknowledged before it began"
    MIXED_SNAPSHOT = "one read sees two keys at two moments"
    STALE_PRIMARY = "the primary answers a read from an old state"
    FORKED_EPOCH = "a replica follows another history under the same numbers"
    RESTORE_REWINDS = "a restore takes data and bookmarks back"
    DIRTY_READ = "a read sees a transaction that is then rolled back"
    LOST_UPDATE = "two additions start from the same value"
    FUTURE_BOOKMARK = "an answer carries a bookmark that no commit ever had"


@dataclass(slots=True)
class ToyReplica:
    """A replica: its state, and how many commits it has applied."""

    state: dict[str, Value]
    applied: int = 0
    forked: bool = False


@dataclass(slots=True)
class ToySession:
    """A session: what it saw, and until when it is busy with its last request."""

    name: str
    seen: Bookmark | None = None
    busy_until: float = 0.0


@dataclass(slots=True)
class ToyCluster:
    """Runs `steps` random requests; `bug_at` is the step from which the bug may strike, once."""

    seed: int
    bug: Bug | None = None
    bug_at: int = 60
    rng: random.Random = field(init=False)
    commits: list[Write] = field(default_factory=list)  # in order; the number of one is its place
    states: list[dict[str, Value]] = field(default_factory=lambda: [dict(INITIAL)])
    replicas: dict[str, ToyReplica] = field(init=False)
    sessions: list[ToySession] = field(init=False)
    events: list[Event] = field(default_factory=list)
    late: list[Write] = field(default_factory=list)  # of unknown outcome, to be done later
    step: int = 0
    writes: int = 0
    lineage: int = 0
    struck: bool = False

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.replicas = {name: ToyReplica(dict(INITIAL)) for name in REPLICAS}
        self.sessions = [ToySession(f"s{index}") for index in range(SESSIONS)]

    def run(self, steps: int = 300) -> History:
        """Make `steps` requests and return their history."""
        base = self.bookmark(0)
        for self.step in range(1, steps + 1):
            if self.late and self.rng.random() < 0.1:
                self.commit(self.late.pop(0))
            for replica in self.replicas.values():
                if self.rng.random() < 0.3:
                    self.advance(replica, self.rng.randint(replica.applied, len(self.commits)))
            free = [one for one in self.sessions if one.busy_until < self.step - 0.5]
            if free:
                session = self.rng.choice(free)
                self.write(session) if self.rng.random() < 0.5 else self.read(session)
        return History(
            events=sorted(self.events, key=lambda event: event.completed),
            ledger=[write.id for write in self.commits],
            initial=INITIAL,
            base=base,
            head=self.bookmark(len(self.commits)),
        )

    def strikes(self, bug: Bug, *, chance: float = 0.3) -> bool:
        """Tell whether `bug` happens here and now; it happens once."""
        if bug is not self.bug or self.struck or self.step < self.bug_at:
            return False
        self.struck = self.rng.random() < chance
        return self.struck

    def bookmark(self, place: int, *, lineage: int | None = None) -> Bookmark:
        mark = self.lineage if lineage is None else lineage
        return Bookmark(CommitToken(1, BASE_SEQ + place), bytes([mark]) * 16)

    # --- writes -------------------------------------------------------------------------------

    def write(self, session: ToySession) -> None:
        self.writes += 1
        luck = self.rng.random()
        outcome = Outcome.OK if luck < 0.85 else Outcome.INFO if luck < 0.95 else Outcome.FAIL
        write = self.request(session, outcome)
        if outcome is Outcome.OK:
            write = self.acknowledge(session, write)
        elif outcome is Outcome.INFO:
            self.leave_unknown(write)
        elif self.strikes(Bug.REFUSED_HAPPENS):
            self.commit(write)
        elif self.strikes(Bug.DIRTY_READ, chance=1.0):
            dirty = _after(self.states[-1], write.changes)
            self.answer_read(session, dirty, len(self.commits), keys=[write.changes[0].key])
        self.events.append(write)

    def request(self, session: ToySession, outcome: Outcome) -> Write:
        invoked, completed = self.times(session)
        return Write(
            id=self.writes,
            session=session.name,
            node=self.rng.choice(("primary", *REPLICAS)),
            invoked=invoked,
            completed=completed,
            outcome=outcome,
            changes=self.changes(),
            supplied=session.seen,
            bookmark=None,
        )

    def changes(self) -> tuple[Change, ...]:
        kind = self.rng.randrange(4)
        if kind == 0:
            a, b = self.rng.sample(ACCOUNTS, 2)
            amount = self.rng.randint(1, 9)
            return (Add(a, -amount), Add(b, amount))
        if kind == 1:
            return (Assign("register:0", self.writes),)
        if kind == 2:
            return (Add("counter:0", self.rng.randint(1, 3)),)
        lists = self.rng.sample(("list:0", "list:1"), self.rng.randint(1, 2))
        return tuple(Append(key, self.writes) for key in lists)

    def acknowledge(self, session: ToySession, write: Write) -> Write:
        if self.strikes(Bug.LOSES_ACKED):
            return self.acked(session, write, self.bookmark(len(self.commits) + 1))
        if len(self.commits) > 5 and self.strikes(Bug.OUT_OF_REAL_TIME):
            return self.insert_before_the_past(session, write)
        self.commit(write)
        place = len(self.commits)
        if self.strikes(Bug.FORWARDS_TWICE):
            self.commit(write)
        after_acked = place > 1 and self.commits[-2].outcome is Outcome.OK
        if (after_acked and self.strikes(Bug.SAME_NUMBER)) or self.strikes(Bug.ACK_TOO_OLD):
            place -= 1
        done = self.acked(session, write, self.bookmark(place))
        if len(self.commits) > 8 and self.strikes(Bug.LOSES_TAIL):
            self.rewind(len(self.commits) - 3)
        if len(self.commits) > 20 and self.strikes(Bug.RESTORE_REWINDS):
            self.rewind(len(self.commits) // 2)
        return done

    def acked(self, session: ToySession, write: Write, bookmark: Bookmark) -> Write:
        session.seen = max(session.seen, bookmark) if session.seen else bookmark
        return _replace(write, bookmark)

    def leave_unknown(self, write: Write) -> None:
        if self.strikes(Bug.SEEN_THEN_GONE):
            state = _after(self.states[-1], write.changes)
            reader = self.sessions[0]
            self.answer_read(reader, state, len(self.commits), keys=[write.changes[0].key])
        elif self.rng.random() < 0.3:
            self.commit(write)
        elif self.rng.random() < 0.5:
            self.late.append(write)

    def commit(self, write: Write) -> None:
        changes = write.changes
        if len(changes) > 1 and self.strikes(Bug.HALF_COMMIT):
            changes = changes[:1]
        start = self.states[-1]
        before = self.states[-2] if len(self.states) > 1 else start
        adds = isinstance(changes[0], Add) and start["counter:0"] != before["counter:0"]
        if adds and self.strikes(Bug.LOST_UPDATE):
            start = {**start, "counter:0": before["counter:0"]}
        self.commits.append(write)
        self.states.append(_after(start, changes))

    def insert_before_the_past(self, session: ToySession, write: Write) -> Write:
        """Give `write` the place before the last commit that was complete when it began."""
        for place in range(len(self.commits) - 1, -1, -1):
            old = self.commits[place]
            if old.bookmark is None and old.outcome is Outcome.OK and old.completed < write.invoked:
                self.commits.insert(place, write)
                self.states = self.states[: place + 1]
                for later in self.commits[place:]:
                    self.states.append(_after(self.states[-1], later.changes))
                return self.acked(session, write, self.bookmark(place + 1))
        self.struck = False
        self.commit(write)
        return self.acked(session, write, self.bookmark(len(self.commits)))

    def rewind(self, place: int) -> None:
        del self.commits[place:], self.states[place + 1 :]
        self.lineage += 1
        for replica in self.replicas.values():
            replica.applied = min(replica.applied, place)
            replica.state = dict(self.states[replica.applied])

    # --- reads --------------------------------------------------------------------------------

    def read(self, session: ToySession) -> None:
        name = self.rng.choice(("primary", *REPLICAS))
        if name == "primary":
            place = len(self.commits)
            state = self.states[place]
            if place > 5 and self.strikes(Bug.STALE_PRIMARY):
                state, place = self.states[place - 5], place - 5
            self.answer_read(session, state, place, node=name, is_fresh=True)
            return
        replica = self.replicas[name]
        wanted = session.seen.seq - BASE_SEQ if session.seen else 0
        if replica.applied < wanted:
            if self.strikes(Bug.IGNORES_BOOKMARK, chance=1.0):
                self.answer_read(session, replica.state, replica.applied, node=name)
                return
            if self.strikes(Bug.LIES_ABOUT_STATE, chance=1.0):
                self.answer_read(session, replica.state, wanted, node=name)
                return
            self.advance(replica, min(wanted, len(self.commits)))
        self.answer_from_replica(session, replica, name)

    def answer_from_replica(self, session: ToySession, replica: ToyReplica, name: str) -> None:
        state, place = replica.state, replica.applied
        changes = self.commits[place].changes if place < len(self.commits) else ()
        if len(changes) > 1 and self.strikes(Bug.TORN_BATCH, chance=1.0):
            state = _after(state, changes[:1])
        newest = self.commits[place - 1].changes if place else ()
        if len(newest) > 1 and self.strikes(Bug.MIXED_SNAPSHOT, chance=1.0):
            state = {**state, newest[0].key: self.states[place - 1].get(newest[0].key, ())}
        if place > 4 and self.strikes(Bug.BOOKMARK_TOO_OLD, chance=1.0):
            place -= 1
        if self.strikes(Bug.FUTURE_BOOKMARK):
            place += 10_000
        self.answer_read(session, state, place, node=name, forked=replica.forked)

    def advance(self, replica: ToyReplica, place: int) -> None:
        while replica.applied < place:
            commit = self.commits[replica.applied]
            replica.applied += 1
            lasting = not isinstance(commit.changes[0], Assign)  # the next one would hide the bug
            if lasting and self.strikes(Bug.REPLICA_SKIPS):
                continue
            if self.strikes(Bug.FORKED_EPOCH):
                replica.forked = True
            if replica.applied < place:
                following = self.commits[replica.applied]
                if _appended(commit) & _appended(following) and self.strikes(Bug.REPLICA_REORDERS):
                    replica.state = _after(replica.state, following.changes)
                    replica.applied += 1
            replica.state = _after(replica.state, commit.changes)
            if lasting and self.strikes(Bug.REPLICA_APPLIES_TWICE):
                replica.state = _after(replica.state, commit.changes)

    def answer_read(
        self,
        session: ToySession,
        state: Mapping[str, Value],
        place: int,
        *,
        node: str = REPLICAS[0],
        keys: list[str] | None = None,
        is_fresh: bool = False,
        forked: bool = False,
    ) -> None:
        invoked, completed = self.times(session)
        if place < len(self.commits) and self.bug is None and self.rng.random() < 0.1:
            place += 1  # taken after the read: a commit may have come in between
        bookmark = self.bookmark(place, lineage=99 if forked else None)
        self.events.append(
            Read(
                session=session.name,
                node=node,
                invoked=invoked,
                completed=completed,
                seen={key: state.get(key, ()) for key in keys or KEYS},
                supplied=session.seen,
                bookmark=bookmark,
                is_fresh=is_fresh,
            )
        )
        session.seen = max(session.seen, bookmark) if session.seen else bookmark

    def times(self, session: ToySession) -> tuple[float, float]:
        """Bracket this step by a begin and an end; requests of a session do not overlap."""
        invoked = max(session.busy_until, self.step - 3 * self.rng.random())
        completed = self.step + 3 * self.rng.random()
        session.busy_until = completed
        return invoked, completed


def _appended(write: Write) -> set[str]:
    return {change.key for change in write.changes if isinstance(change, Append)}


def _after(state: Mapping[str, Value], changes: tuple[Change, ...]) -> dict[str, Value]:
    after = dict(state)
    for change in changes:
        after[change.key] = applied(after.get(change.key, ()), change)
    return after


def _replace(write: Write, bookmark: Bookmark) -> Write:
    return Write(
        id=write.id,
        session=write.session,
        node=write.node,
        invoked=write.invoked,
        completed=write.completed,
        outcome=Outcome.OK,
        changes=write.changes,
        supplied=write.supplied,
        bookmark=bookmark,
    )
