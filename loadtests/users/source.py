"""What a test sends, made from its plan."""

from __future__ import annotations

from dataclasses import dataclass

from loadtests.sources.access import check_host
from loadtests.sources.build import BuiltSource, build_source
from loadtests.users.options import Plan


@dataclass(frozen=True)
class Load:
    """A source with the address that it was made for."""

    host: str
    source: BuiltSource


def make_load(host: str | None, plan: Plan) -> Load:
    """Ask the service what it serves and make the requests for it.

    Raises
    ------
    PilotageError
        When the service cannot be reached, or serves nothing that the traffic fits.
    """
    address = check_host(host or "")
    others = [arm.host for arm in plan.arms if arm.host is not None and arm.host != address]
    return Load(address, build_source(address, plan.profile.traffic, plan.profile.seed, also=others))
