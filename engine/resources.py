"""What all databases of a node share."""

from dataclasses import dataclass, field

from engine.durations import Histogram
from engine.files import Disk
from engine.limits import SqlLimits
from engine.openings import Openings
from engine.threads import Threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Handed to every database of the node; the node owns the threads and closes them last."""

    disk: Disk
    limits: SqlLimits
    io: Threads  # fdatasync, checkpoints, recovery, writes that take long
    readers: Threads  # SQL reads that take long
    query_deadline_s: float
    openings: Openings = field(default_factory=lambda: Openings(256))
    log_bytes_max: int  # per database; a replica further behind copies the file anew
    flush_s: Histogram = field(default_factory=Histogram)  # of commit logs, fdatasync included
