"""What all calls of one kind have in common beside their bodies: name, path, headers, deadline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtests.calls import Call, Check

DEADLINE_HEADER = "x-request-timeout-ms"
"""How long the caller will wait, as the service reads it (docs/serving.md)."""


@dataclass(frozen=True)
class Envelope:
    """Makes calls.

    Attributes
    ----------
    endpoint
        Name in samples and reports.
    path
        Path below the address of the service.
    headers
        Of every call, whatever its form: the bearer token.
    deadline_ms
        The caller's; sent along, and held against the latency.
    """

    endpoint: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    deadline_ms: int | None = None

    def call(self, body: bytes, size: int, check: Check, headers: Mapping[str, str], *, query: str = "") -> Call:
        """Make a call; `headers` are those of the form."""
        deadline = {} if self.deadline_ms is None else {DEADLINE_HEADER: str(self.deadline_ms)}
        return Call(
            endpoint=self.endpoint,
            path=self.path + query,
            headers={**headers, **self.headers, **deadline},
            body=body,
            size=size,
            check=check,
            deadline_ms=self.deadline_ms,
        )
