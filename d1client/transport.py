"""Requests over HTTP, sent again where that is safe.

One aiohttp session per client; it is opened by the first request and closed by `close`.
What is repeated and when is decided in `retry.py`; this module observes one fact for it
that only the transport knows: whether a byte of the request had been handed to the network.
"""

import asyncio
import random
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp

from d1client.errors import D1Error, D1OutcomeUnknown, D1Refused, D1Unavailable
from d1client.results import decode_error
from d1client.retry import Outcome, RetryPolicy, may_repeat, outcome_of_answer

BOOKMARK_HEADER = "x-d1-bookmark"
IDEMPOTENCY_HEADER = "Idempotency-Key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request: where, what, and whether sending it twice is harmless."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    repeatable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one try came to: an answer, or the reason why there is none."""

    outcome: Outcome
    status: int = 0
    body: bytes = b""
    bookmark: str | None = None
    retry_after_s: float | None = None
    trouble: str = ""

    def as_error(self) -> D1Error:
        """Return the error that the caller sees when this reply is the last one."""
        assert self.outcome is not Outcome.DONE
        if self.trouble:
            code, message = 0, self.trouble
        else:
            item = decode_error(self.status, self.body)
            code, message = item.code, item.message
        kind: type[D1Error] = D1OutcomeUnknown
        if self.outcome is Outcome.REFUSED:
            kind = D1Refused
        elif self.outcome is Outcome.NOT_DONE:
            kind = D1Unavailable
        return kind(message, code=code)


@dataclass(slots=True)
class _Progress:
    """Whether a byte of the request may have left; travels with it as its trace context."""

    sent: bool = False


class Transport:
    """The HTTP connection pool of one client."""

    def __init__(
        self,
        url: str,
        *,
        policy: RetryPolicy,
        timeout_s: float,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._tls = tls
        self._policy = policy
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._http: aiohttp.ClientSession | None = None

    async def call(self, call: Call) -> Reply:
        """Send `call`, again where the policy allows it; return the last reply."""
        started = time.monotonic()
        reply = await self._try(call)
        tries = 1
        while may_repeat(reply.outcome, repeatable=call.repeatable):
            delay_s = self._policy.next_delay_s(
                tries,
                elapsed_s=time.monotonic() - started,
                retry_after_s=reply.retry_after_s,
                chance=random.random(),
            )
            if delay_s is None:  # the policy bounds this loop
                break
            await asyncio.sleep(delay_s)
            reply = await self._try(call)
            tries += 1
        return reply

    async def close(self) -> None:
        """Close every connection; a later call opens new ones."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def _try(self, call: Call) -> Reply:
        progress = _Progress()
        try:
            async with self._session().post(
                f"{self._url}{call.path}",
                data=call.body,
                headers=call.headers,
                trace_request_ctx=progress,
            ) as response:
                return _reply(response, await response.read())
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            outcome = Outcome.UNKNOWN if progress.sent else Outcome.NOT_DONE
            trouble = f"Network connection lost. ({type(exc).__name__}: {exc})"
            return Reply(outcome=outcome, trouble=trouble)

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_mark_sent)
            self._http = aiohttp.ClientSession(
                timeout=self._timeout,
                headers=self._headers,
                trace_configs=[trace],
                # The caller's concurrency is the bound.
                connector=aiohttp.TCPConnector(limit=0, ssl=self._tls or True),
            )
        return self._http


async def _mark_sent(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    progress = context.trace_request_ctx
    assert isinstance(progress, _Progress)
    progress.sent = True


def _reply(response: aiohttp.ClientResponse, body: bytes) -> Reply:
    should_retry = _flag(response.headers.get("x-should-retry"))
    return Reply(
        outcome=outcome_of_answer(response.status, should_retry=should_retry),
        status=response.status,
        body=body,
        bookmark=response.headers.get(BOOKMARK_HEADER),
        retry_after_s=_seconds(response.headers.get("Retry-After")),
    )


def _flag(text: str | None) -> bool | None:
    """Read a true/false header; anything else says nothing."""
    return {"true": True, "false": False}.get(text.strip().lower()) if text is not None else None


def _seconds(text: str | None) -> float | None:
    """Read a `Retry-After` in seconds; its date form and garbage say nothing."""
    try:
        seconds = float(text) if text is not None else -1.0
    except ValueError:
        return None
    return seconds if 0.0 <= seconds < 3600.0 else None
