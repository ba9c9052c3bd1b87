"""From the traffic of a profile to a source: asks the service what it serves, and makes the calls that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.errors import ServiceError
from loadtests.sources.access import Caller
from loadtests.sources.classification import classification, classification_path
from loadtests.sources.envelope import Envelope
from loadtests.sources.pool import MAX_POOL_BYTES, Mix, Pool, Source
from loadtests.sources.ranking import ranking_calls, ranking_path
from loadtests.sources.recorded import read_recorded
from loadtests.sources.service import Classifier, Ranker, Service, fetch_service
from loadtests.sources.traffic import ClassifyRequests, RankRequests, Traffic


@dataclass(frozen=True)
class Part:
    """One kind of request in a built source.

    Attributes
    ----------
    endpoint
        Its name.
    weight
        Of its calls.
    model
        Whom they ask.
    bodies, size_bytes
        Distinct bodies, and the memory that they take.
    """

    endpoint: str
    weight: float
    model: Ranker | Classifier
    bodies: int
    size_bytes: int


class BuiltSource(Mix):
    """All that a test sends.

    Attributes
    ----------
    parts
        In the order of the traffic.
    """

    def __init__(self, built: Sequence[tuple[Source, Part]], seed: int) -> None:
        super().__init__([(source, part.weight) for source, part in built], seed)
        self.parts = tuple(part for _, part in built)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Names of all endpoints that calls can have."""
        return tuple(part.endpoint for part in self.parts)

    def told(self) -> str:
        """What is sent, in one line."""
        return "; ".join(
            f"{part.endpoint} to {part.model.name} {part.model.version} ({part.bodies} bodies, {part.size_bytes / 1e6:.1f} MB)"
            for part in self.parts
        )


def build_source(host: str, traffic: Traffic, seed: int, *, also: Sequence[str] = ()) -> BuiltSource:
    """Make the source of a test; takes seconds where there are images, and waits until the service knows the labels.

    Same service, traffic and seed: same bytes, pictures with the same version of their libraries. New labels alone differ from run to run,
    unless `Traffic.new_label_salt` is given.

    Parameters
    ----------
    host
        Address of the service.
    seed
        Of everything that is drawn.
    also
        Addresses that get the same calls: other arms. They must serve the same models, in whatever version, and are shown the labels, too.

    Raises
    ------
    ServiceError
        The service cannot be reached, or serves nothing that the traffic could be sent to.
    SettingsError
        The traffic does not fit what is served, or a file of it is of no use.
    """
    callers, asked = _asked(host, traffic, also)
    headers = traffic.access.headers()
    built: list[tuple[Source, Part]] = []
    left_bytes = MAX_POOL_BYTES
    for entry, model in asked:
        deadline_ms = traffic.deadline_ms if entry.deadline_ms is None else entry.deadline_ms
        source: Source
        if isinstance(entry, RankRequests):
            assert isinstance(model, Ranker)
            envelope = Envelope(entry.name, ranking_path(entry, model), headers, deadline_ms)
            source = pool = Pool(ranking_calls(entry, model, envelope, traffic.values, seed), left_bytes)
            bodies, size_bytes = len(pool.calls), pool.size_bytes
        else:
            assert isinstance(model, Classifier)
            envelope = Envelope(entry.name, classification_path(entry, model), headers, deadline_ms)
            source, bodies, size_bytes = classification(entry, model, envelope, traffic, callers, seed, left_bytes)
        left_bytes -= size_bytes
        built.append((source, Part(entry.name, entry.weight, model, bodies, size_bytes)))
    return BuiltSource(built, seed)


def check_traffic(host: str, traffic: Traffic, *, also: Sequence[str] = ()) -> None:
    """Refuse at once what `build_source` would refuse for the services' answers or for a file, without making anything.

    Raises
    ------
    ServiceError, SettingsError
        As `build_source`.
    """
    for entry, model in _asked(host, traffic, also)[1]:
        if isinstance(entry, RankRequests) and isinstance(model, Ranker) and entry.recorded is not None:
            read_recorded(entry.recorded, max_candidates=model.max_candidates)


def _asked(
    host: str, traffic: Traffic, also: Sequence[str]
) -> tuple[list[Caller], list[tuple[RankRequests | ClassifyRequests, Ranker | Classifier]]]:
    """Ask all addresses what they serve: kinds of requests with their models, which the first address has and the others must have, too."""
    callers = [Caller(address, traffic.access) for address in (host, *also)]
    services = [fetch_service(caller) for caller in callers]
    found: list[tuple[RankRequests | ClassifyRequests, Ranker | Classifier]] = []
    for entry in traffic.requests or (_usual(services[0]),):
        find = Service.ranker if isinstance(entry, RankRequests) else Service.classifier
        model = find(services[0], entry.model)
        for service in services[1:]:
            find(service, model.name)
        found.append((entry, model))
    return callers, found


def _usual(service: Service) -> RankRequests | ClassifyRequests:
    if not service.models:
        raise ServiceError(f"{service.host} serves no model that this test knows; look at its /readyz")
    return RankRequests(endpoint="rank") if isinstance(service.models[0], Ranker) else ClassifyRequests(endpoint="classify")
