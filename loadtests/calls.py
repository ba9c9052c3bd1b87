"""What a load test sends: calls, and the sources that they come from.

An engine asks a source for call after call, sends them, and asks the source what became of them. It knows no
model and no form of a body; a source knows no clock and no socket. All of it is pure: no Locust, no gevent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

LATE = "late"
"""Kind of failure of a good answer that came after the caller's deadline: the caller has gone, so it is no goodput."""


class Check(Protocol):
    """Looks at an answer; made together with the request that it belongs to."""

    def __call__(self, status: int, headers: Mapping[str, str], body: bytes, *, in_full: bool) -> str | None:
        """Return the kind of failure in a few words, None for a good answer.

        Parameters
        ----------
        status
            HTTP status code.
        headers
            Of the answer; found by names in lower case.
        body
            Of the answer, without any content encoding.
        in_full
            Whether to hold the answer against the request, value by value, or to look at its outline alone.
        """
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One request, ready to be sent with POST.

    Attributes
    ----------
    endpoint
        Its name in samples and reports: ``rank``, ``rank-arrow``, ``classify``, ``infer``, or what the traffic calls it.
    path
        Path and query, below the address of the service.
    headers
        Content type, what is accepted, the bearer token, the caller's deadline.
    body
        The bytes.
    size
        Candidates to rank, or images to classify.
    check
        Tells a good answer from a bad one.
    deadline_ms
        The caller waits no longer than this; the service is told by a header. None waits as long as the engine does.
    """

    endpoint: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    size: int
    check: Check = field(repr=False, compare=False)
    deadline_ms: float | None = None


class CallSource(Protocol):
    """Gives calls by number, and judges their answers. Costs microseconds: what is dear was done before the load."""

    def call(self, index: int) -> Call:
        """Return the call of this number, from 0; same source and number, same bytes, in whatever order they are asked for."""
        ...

    def failure(self, call: Call, status: int, headers: Mapping[str, str], body: bytes, latency_ms: float) -> str | None:
        """Return the kind of failure, None when the call was well answered.

        Parameters
        ----------
        call
            One that this source gave.
        status, headers, body
            The answer; see `Check`.
        latency_ms
            From the intended start, or from sending in a closed loop; beyond the call's deadline the kind is `LATE`.
        """
        ...
