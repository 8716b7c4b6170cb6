"""Calls of one node over HTTP, for the command line and the supervisor.

Synchronous on purpose: a command does one thing after the other. Nothing is retried
here; a caller that may repeat a request says so with an idempotency key and a loop of its own.
"""

import http.client
import json
import select
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

from d1server.tls import client_context

DEFAULT_URL: Final = "http://127.0.0.1:8787"
CALL_S_MAX: Final = 600.0  # a VACUUM or a large batch may take minutes


class UrlInvalid(Exception):
    """Text that names no node."""


class NodeUnreachable(Exception):
    """Nobody answers, or the answer broke off; what was asked may or may not have been done."""

    def __init__(self, message: str, *, was_sent: bool) -> None:
        super().__init__(message)
        self.was_sent = was_sent  # False: surely not done


@dataclass
class NodeRefused(Exception):
    """The node said no; `message` is its own text."""

    status: int
    code: int
    message: str
    should_retry: bool = False
    retry_after_s: float = 0.0
    hint: str = ""  # what to do about it, if the node told
    statement: int | None = None  # which one of a batch, from 0, if the node told

    def __str__(self) -> str:
        return self.message


class AnswerForeign(Exception):
    """Something answers at a URL, but not as a node does."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url} does not answer as a node; is it another server?")


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful answer; what is not as a node answers raises `AnswerForeign`."""

    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case

    @property
    def bookmark(self) -> str | None:
        return self.headers.get("x-d1-bookmark")

    def json(self, *keys: str) -> dict[str, Any]:
        """Return the body as a JSON object that has these keys."""
        try:
            value = json.loads(self.body)
        except ValueError:
            value = None
        if not isinstance(value, dict) or not value.keys() >= set(keys):
            raise AnswerForeign(self.url)
        return value

    def result_object(self) -> dict[str, Any]:
        """Return `result` of D1's envelope where it is one object."""
        value = self.json().get("result")
        if not isinstance(value, dict):
            raise AnswerForeign(self.url)
        return value

    def result_objects(self) -> list[dict[str, Any]]:
        """Return `result` of D1's envelope where it is a list of objects."""
        value = self.json().get("result")
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise AnswerForeign(self.url)
        return value


class NodeConnection:
    """One connection to one node, opened when needed, kept for the next call."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = CALL_S_MAX,
        token: str | None = None,
        tls_ca: Path | None = None,
    ) -> None:
        """Nothing is sent yet. Raises `UrlInvalid`, `TlsInvalid`."""
        self.url = normal_url(url)
        self._headers = {"Accept": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        parts = urlsplit(self.url)
        self._prefix = parts.path.rstrip("/")
        host, port = parts.hostname or "", parts.port
        self._http: http.client.HTTPConnection
        if parts.scheme == "https":
            context = client_context(tls_ca)
            self._http = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        else:
            self._http = http.client.HTTPConnection(host, port, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request and return its answer, or raise what went wrong."""
        if self._was_dropped():
            self._http.close()
        is_new = self._http.sock is None
        if is_new:
            self._connect()
        sent = {**self._headers, **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        try:
            self._http.request(method, self._prefix + path, body=body, headers=sent)
            response = self._http.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as exc:
            self._http.close()
            said = f"{self.url} broke off: {describe(exc)}"
            if is_new and self.url.startswith("http:"):
                said += " (a node with TLS has a URL that begins https://)"
            raise NodeUnreachable(said, was_sent=True) from exc
        answered = {name.lower(): value for name, value in response.getheaders()}
        if response.status >= 400:
            raise refusal(response.status, content, answered)
        return Reply(self.url, content, answered)

    def post(self, path: str, value: object, *, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a value as JSON."""
        return self.call("POST", path, body=encode(value), headers=headers)

    def _was_dropped(self) -> bool:
        """Whether the node has ended the kept connection, as it does after an idle minute."""
        if self._http.sock is None:
            return False
        poll = select.poll()
        poll.register(self._http.sock, select.POLLIN)
        return bool(poll.poll(0))  # nothing is owed: what can be read is the end

    def _connect(self) -> None:
        try:
            self._http.connect()
        except ssl.SSLError as exc:
            self._http.close()
            is_unknown = isinstance(exc, ssl.SSLCertVerificationError)
            advice = (
                "name its CA with --tls-ca" if is_unknown else "perhaps it has none: try http://"
            )
            said = f"no TLS with {self.url} ({describe(exc)}); {advice}"
            raise NodeUnreachable(said, was_sent=False) from exc
        except OSError as exc:
            self._http.close()
            raise NodeUnreachable(
                f"no node answers at {self.url} ({describe(exc)}); start one with"
                " `d1server dev`, or name another with --url or D1SERVER_URL",
                was_sent=False,
            ) from exc
        self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def normal_url(text: str) -> str:
    """Return a node's URL with a scheme and without a slash at its end."""
    url = text.strip()
    if "://" not in url:
        url = "http://" + url
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket left open
        is_good = False
    if not is_good or any(char.isspace() for char in url):
        raise UrlInvalid(f"{text!r} is no URL of a node; wants one such as {DEFAULT_URL}")
    return url.rstrip("/")


def database_path(name: str, action: str = "") -> str:
    """Return the path of a database, or of an action on it."""
    return f"/db/{quote(name, safe='')}" + (f"/{action}" if action else "")


def encode(value: object) -> bytes:
    """Return a value as JSON bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def refusal(status: int, content: bytes, headers: Mapping[str, str]) -> NodeRefused:
    """Return what an answer of 400 or more says; the body may be anybody's, such as a proxy's."""
    code, message, hint, statement = 0, "", "", None
    try:
        answer = json.loads(content)
        if "reasons" in answer:  # of /readyz
            message = "; ".join(answer["reasons"])
        else:
            first = answer["errors"][0]
            code, message = int(first["code"]), str(first["message"])
            statement = first.get("statement")
            hint = "; ".join(str(item["message"]) for item in answer.get("messages", ()))
    except (ValueError, LookupError, TypeError, AttributeError):
        message = message or content[:200].decode("utf-8", "replace").strip()
    try:
        retry_after_s = float(headers.get("retry-after", "0"))
    except ValueError:  # a date: that far ahead is too far for us
        retry_after_s = 0.0
    return NodeRefused(
        status=status,
        code=code,
        message=message or f"HTTP status {status}",
        should_retry=headers.get("x-should-retry") == "true",
        retry_after_s=retry_after_s,
        hint=hint,
        statement=statement if isinstance(statement, int) else None,
    )


def describe(exc: Exception) -> str:
    """Return a connection error in a few words."""
    if isinstance(exc, ssl.SSLError):
        said = getattr(exc, "verify_message", "") or exc.reason or str(exc)
        return f"TLS: {str(said).lower().replace('_', ' ')}"
    if isinstance(exc, TimeoutError):
        return "timed out"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror.lower()
    return str(exc) or type(exc).__name__
