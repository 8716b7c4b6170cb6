"""Errors of the following side, one class per reaction of the catcher.

ReplicaError
PeerRefused       the primary will not have us: dialling again cannot help, tell the operator
HistoryDiverged   our commits or pages are not the primary's: copy the file anew
TooManyWaiters    answer 503; the client may retry
WaitTimedOut      the commit did not come in time: the request's own policy decides
ForwardFailed     the primary cannot be asked now: nothing was done, answer 503, retry
OutcomeUnknown    the link broke after a forwarded write was sent: answer 503, do not
retry blindly
"""


class ReplicaError(Exception):
    """A replica cannot do what was asked."""


class PeerRefused(ReplicaError):
    """The primary refused this replica; the message is its reason."""


class HistoryDiverged(ReplicaError):
    """What we hold is not what the primary's history says."""


class TooManyWaiters(ReplicaError):
    """No more reads may wait for their bookmark."""


class WaitTimedOut(ReplicaError):
    """A bookmark's commit was not applied within the request's wait."""


class ForwardFailed(ReplicaError):
    """A request could not be handed to the primary."""


class OutcomeUnknown(ReplicaError):
    """A request was handed to the primary and its answer was lost."""
