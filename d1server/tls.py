"""TLS of a node: from three file names to what `ssl` wants.

    --tls-cert, --tls-key   what this node shows: to HTTP clients, and on the link
    --tls-ca                whose certificates this node takes on the link, both ways

With any of them the link is TLS. A primary with a CA asks its replicas for a certificate of
that CA; use one that signs for this cluster only. HTTP clients prove themselves with access
tokens, never with certificates.
"""

import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CERTIFICATE_END = "-----END CERTIFICATE-----"


class TlsInvalid(Exception):
    """A certificate, key or CA cannot be used; the message names the setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The files of one node."""

    cert: Path | None = (
        None  # PEM: the node's own certificate first, then those between it and the CA
    )
    key: Path | None = None
    ca: Path | None = None

    def __bool__(self) -> bool:
        """Whether there is anything of TLS."""
        return self.cert is not None or self.ca is not None

    def for_http(self) -> ssl.SSLContext | None:
        """What the HTTP side serves with. Raises `TlsInvalid`."""
        return self._server() if self.cert is not None else None

    def for_replicas(self) -> ssl.SSLContext | None:
        """What a primary takes links with. Raises `TlsInvalid`."""
        if not self:
            return None
        if self.cert is None:
            raise TlsInvalid("--tls-ca: a primary needs --tls-cert and --tls-key as well")
        context = self._server()
        if self.ca is not None:
            _load_ca(context, self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def for_primary(self) -> ssl.SSLContext | None:
        """What a replica dials its primary with. Raises `TlsInvalid`."""
        if not self:
            return None
        context = client_context(self.ca)
        if self.cert is not None:
            self._load_cert(context)
        return context

    def fingerprint(self) -> bytes:
        """SHA-256 of the node's own certificate; empty without one. Raises `TlsInvalid`."""
        if self.cert is None:
            return b""
        try:
            text = self.cert.read_text("ascii", "replace")
            first = text[: text.index(_CERTIFICATE_END) + len(_CERTIFICATE_END)]
            der = ssl.PEM_cert_to_DER_cert(first[first.rindex("-----BEGIN") :])
        except (OSError, ValueError) as exc:  # it has changed since it was loaded
            raise TlsInvalid(f"--tls-cert {self.cert}: {_said(exc)}") from exc
        return hashlib.sha256(der).digest()

    def _server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        self._load_cert(context)
        return context

    def _load_cert(self, context: ssl.SSLContext) -> None:
        assert self.cert is not None
        try:
            # An encrypted key would make the node ask at its terminal, where nobody is.
            context.load_cert_chain(self.cert, self.key, password=_refuse_password)
        except (OSError, ValueError) as exc:
            raise TlsInvalid(
                f"--tls-cert {self.cert}, --tls-key {self.key or self.cert}: {_said(exc)}"
            ) from exc


def client_context(ca: Path | None) -> ssl.SSLContext:
    """What a client checks a server with: this CA, or the system's. Raises `TlsInvalid`."""
    context = (
        ssl.create_default_context() if ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        _load_ca(context, ca)
    return context


def _load_ca(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(cafile=ca)
    except OSError as exc:
        raise TlsInvalid(f"--tls-ca {ca}: {_said(exc)}") from exc


def _refuse_password() -> str:
    raise ValueError("the key is encrypted; store it without a password, readable by the node only")


def _said(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError):
        return f"no usable PEM file, or the key is of another certificate ({exc.reason})"
    return str(getattr(exc, "strerror", None) or exc)


_SAID_IN_TLS: Final = {
    "HTTP_REQUEST": "that is plain HTTP; https:// is wanted here",
    "WRONG_VERSION_NUMBER": "that is no TLS",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the CA of this node's certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not take this node's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that this node's certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not take this node's certificate",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
}


def handshake_reason(exc: OSError) -> str:
    """Why a handshake failed, in words."""
    if not isinstance(exc, ssl.SSLError):
        return exc.strerror or str(exc) or type(exc).__name__
    verified = getattr(exc, "verify_message", "")
    if verified:
        return f"its certificate: {verified.lower()}"
    reason = exc.reason or str(exc)
    return _SAID_IN_TLS.get(reason) or reason.lower().replace("_", " ")


def peer_fingerprint(ssl_object: ssl.SSLObject) -> bytes:
    """SHA-256 of the certificate that the other side has shown; empty if it has shown none."""
    der = ssl_object.getpeercert(binary_form=True)
    return hashlib.sha256(der).digest() if der else b""
