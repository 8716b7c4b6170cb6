"""Errors of the wire and disk formats, one class per reaction of the catcher.

ProtoError
BookmarkInvalid    the caller sent text that is no bookmark: answer 400
RequestInvalid     the caller's JSON is not what we take: answer 400
RecordTruncated    the bytes end before the record does: read more, or stop at the log's end
RecordCorrupt      the bytes are not a record: stop trusting this source
FrameCorrupt       the link's bytes are not ours: drop the link
MessageInvalid     the peer speaks another language: refuse it
ProofInvalid       the peer does not know the token that it names: refuse it
"""


class ProtoError(Exception):
    """Bytes or text that do not follow the format."""


class BookmarkInvalid(ProtoError):
    """Text that is not a bookmark."""


class RequestInvalid(ProtoError):
    """A request body or header that we do not take; the message says what to do."""


class RecordTruncated(ProtoError):
    """A commit part that goes on past the end of the buffer."""


class RecordCorrupt(ProtoError):
    """Bytes that are not a commit part, or one whose digest does not match."""


class FrameCorrupt(ProtoError):
    """A link frame with a wrong check value or an impossible length."""


class MessageInvalid(ProtoError):
    """A link message of unknown kind or shape."""


class ProofInvalid(ProtoError):
    """A proof of the link's handshake that is not the one wanted."""
