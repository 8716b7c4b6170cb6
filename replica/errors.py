"""Errors of the following side, one class per reaction of the catcher.

ReplicaError
PeerRefused       the primary will not have us: dialling again cannot help, tell the operator
HistoryDiverged   our commits or pages are not the primary's: copy the file anew
TooManyWaiters    answer 503; the client may retry
ForwardFailed     the primary cannot be asked now: nothing was done, answer 503, retry
OutcomeUnknown    the link broke after a request was forwarded: answer 503; a write may be done
"""


class ReplicaError(Exception):
    """A replica cannot do what was asked."""


class PeerRefused(ReplicaError):
    """The primary refused this replica; the message is its reason."""


class HistoryDiverged(ReplicaError):
    """What we hold is not what the primary's history says."""


class TooManyWaiters(ReplicaError):
    """No more reads may wait for their bookmark."""


class ForwardFailed(ReplicaError):
    """A request could not be handed to the primary."""


class OutcomeUnknown(ReplicaError):
    """A request was handed to the primary and its answer was lost."""
