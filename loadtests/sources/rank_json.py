"""Ranking requests in JSON: ``POST /v1/rank``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loadtests.calls import Call
from loadtests.sources.answers import failure_kind
from loadtests.sources.envelope import Envelope
from loadtests.sources.payloads import Body

RANK_PATH = "/v1/rank"
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


def json_call(body: Body, envelope: Envelope) -> Call:
    """Make a call of a JSON body, made up or recorded."""
    return envelope.call(body.data, body.candidates, _Check(body), HEADERS)


@dataclass(frozen=True, slots=True)
class _Check:
    sent: Body

    def __call__(self, status: int, headers: Mapping[str, str], body: bytes, *, in_full: bool) -> str | None:
        return failure_kind(status, body, self.sent, in_full=in_full)
