"""What a test sends, made from Locust's options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.arms import parse_arms
from loadtests.sources.access import check_host
from loadtests.sources.build import BuiltSource, build_source
from loadtests.sources.service import Classifier, Ranker
from loadtests.sources.traffic import RankRequests, Traffic


@dataclass(frozen=True)
class Load:
    """A source with what the report says about it."""

    host: str
    source: BuiltSource

    @property
    def model(self) -> Ranker | Classifier:
        """The model that the first kind of request asks."""
        return self.source.parts[0].model

    @property
    def bodies(self) -> int:
        """Distinct bodies, of all kinds of request."""
        return sum(part.bodies for part in self.source.parts)


def traffic_of(options: Any) -> Traffic:
    """Read from Locust's parsed options what is to be sent."""
    recorded = Path(options.requests_file) if options.requests_file else None
    return Traffic(requests=(RankRequests(endpoint="rank", candidates=options.candidates, recorded=recorded),))


def make_load(host: str | None, options: Any) -> Load:
    """Ask the service what it serves and make the requests for it.

    Raises
    ------
    PilotageError
        When the service serves nothing that could be asked, or the recorded requests are of no use.
    """
    address = check_host(host or "")
    others = [arm.host for arm in parse_arms(options.arm) if arm.host is not None and arm.host != address]
    return Load(address, build_source(address, traffic_of(options), options.payload_seed, also=others))
