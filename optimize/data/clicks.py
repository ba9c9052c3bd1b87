"""Synthetic ad clicks with a known click probability, so that the best possible log loss is known.

Ids come out of billions, heavy-tailed: a few users and ads make most of the traffic, most ids are seen once or never.
What an id does to the probability is a function of the id alone (a hash of it), so any number of ids costs no memory
and any seed can be drawn again.

The log-odds of a click are a sum of

* a base rate, a daily cycle (hour) and a device effect;
* how well the ad's topic suits the user's interests, which show in the pages that they visited;
* how well the advertiser suits the user's age group (a cross effect);
* a bias of the advertiser, and small biases of the ad and the user.

`drift` turns the tastes: at drift 1 the last impression sees wholly new suitabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optimize.data.interactions import Interactions, Split, pad
from optimize.data.splits import split_index
from serving.contract.errors import PilotageError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

USERS = 4_000_000_000
ADS = 1_000_000_000
ADVERTISERS = 100
TOPICS = 12
PAGES = 1_200
MAX_PAGES = 8
AGE_GROUPS = 6
DEVICES = ("phone", "tablet", "desktop", "tv")
COUNTRIES = ("AT", "BR", "CH", "DE", "ES", "FR", "IN", "IT", "JP", "NG", "US", "VN")
FIRST_SECOND = 1_700_000_000
SECONDS = 14 * 86_400
"""Two weeks of traffic."""


@dataclass(frozen=True)
class ClickSettings:
    """Knobs of the generator.

    Attributes
    ----------
    impressions
        Rows drawn before down-sampling.
    zipf
        Exponent of the heavy tails, greater than 1; ids are Zipf-distributed over all of `USERS` and `ADS`.
    base_logit
        Log-odds of a click without any effect; -2.2 gives some 12 % clicks.
    negative_sampling_rate
        Share of the training part's non-clicks that is kept, in (0, 1].
    drift
        How far tastes turn between the first and the last impression, in [0, 1].
    """

    impressions: int = 400_000
    zipf: float = 1.2
    base_logit: float = -2.2
    negative_sampling_rate: float = 1.0
    drift: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse knobs outside their bounds."""
        for name, low, high in (
            ("impressions", 100, 100_000_000), ("zipf", 1.01, 10), ("base_logit", -20, 20),
            ("negative_sampling_rate", 1e-6, 1), ("drift", 0, 1), ("seed", 0, 2**32 - 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise PilotageError(f"click setting {name} is {value}, it must be between {low} and {high}")


def draw(settings: ClickSettings) -> Interactions:
    """Draw impressions with their true click probability and outcome.

    The same settings give the same data, to the bit, on one version of numpy.
    """
    rng = np.random.default_rng(settings.seed)
    n = settings.impressions
    user = _zipf(rng, settings.zipf, n, USERS)
    ad = _zipf(rng, settings.zipf, n, ADS)
    seconds = np.sort(rng.integers(0, SECONDS, n))
    hour = seconds // 3600 % 24
    device = rng.integers(0, len(DEVICES), n)

    advertiser = _pick(ad, 1, ADVERTISERS)
    topic = _pick(ad, 2, TOPICS)
    age_group = _pick(user, 3, AGE_GROUPS)
    country = _pick(user, 4, len(COUNTRIES))
    interest = _pick(user, 5, TOPICS)
    pages, lengths = _pages(rng, interest)

    turned = settings.drift * seconds / SECONDS
    page_topic = pages % TOPICS
    visited = np.arange(MAX_PAGES) < lengths[:, None]
    affinity = (_taste(page_topic * TOPICS + topic[:, None], 11, turned[:, None]) * visited).sum(axis=1) / np.sqrt(lengths)
    logit = (
        settings.base_logit
        + 0.35 * np.sin(2 * np.pi * (hour - 14) / 24)
        + 0.3 * _normal(device, 12)
        + 0.8 * affinity
        + 0.5 * _taste(advertiser * AGE_GROUPS + age_group, 13, turned)
        + 0.5 * _normal(advertiser, 14)
        + 0.2 * _normal(country * TOPICS + topic, 15)
        + 0.05 * _normal(ad, 16)
        + 0.05 * _normal(user, 17)
    )
    truth = 1 / (1 + np.exp(-logit))
    label = (rng.random(n) < truth).astype(np.float32)
    columns = {
        "user_id": _hex(user, 21),
        "age_group": _names([f"{18 + 10 * i}-{27 + 10 * i}" for i in range(AGE_GROUPS)], age_group),
        "country": _names(list(COUNTRIES), country),
        "pages": pad(
            [[f"/p/{page}" for page in row[:length]] for row, length in zip(pages.tolist(), lengths.tolist(), strict=True)],
            object,
            MAX_PAGES,
        ),
        "sections": pad(
            [[f"section-{topic}" for topic in row[:length]] for row, length in zip(page_topic.tolist(), lengths.tolist(), strict=True)],
            object,
            MAX_PAGES,
        ),
        "device": _names(list(DEVICES), device),
        "hour": hour.astype(np.float32),
        "hour_of_day": _names([f"{h:02d}" for h in range(24)], hour),
        "id": _mix(ad, 22),
        "advertiser": _names([f"adv-{i}" for i in range(ADVERTISERS)], advertiser),
        "topic": _names([f"topic-{i}" for i in range(TOPICS)], topic),
    }
    return Interactions(columns, label, columns["user_id"], seconds + FIRST_SECOND, truth)


def split(settings: ClickSettings, how: str) -> Split:
    """Draw, cut 80/10/10, and down-sample the negatives of the training part alone."""
    data = draw(settings)
    train, validation, test = split_index(data, how, settings.seed)
    if settings.negative_sampling_rate < 1:
        kept = np.random.default_rng([settings.seed, 1]).random(len(train)) < settings.negative_sampling_rate
        train = train[(data.label[train] > 0) | kept]
    return Split(data.take(train), data.take(validation), data.take(test))


def _zipf(rng: np.random.Generator, exponent: float, n: int, population: int) -> Ints:
    """Ranks ``1 … population`` with ``P(rank) ∝ rank**-exponent``, by inverting the continuous distribution function.

    Numpy's own ``zipf`` has no upper end. The continuous law differs from the discrete one in the first few ranks only.
    """
    power = 1 - exponent
    u = rng.random(n)
    rank: Floats = (1 + u * ((population + 1.0) ** power - 1)) ** (1 / power)
    return np.minimum(rank.astype(np.int64), population)


def _mix(ids: Ints, salt: int) -> Ints:
    """Scatter ids over 63 bits; the finalizer of SplitMix64 (Steele et al., "Fast Splittable PRNGs", OOPSLA 2014)."""
    x = ids.astype(np.uint64) + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def _pick(ids: Ints, salt: int, choices: int) -> Ints:
    return _mix(ids, salt) % choices


def _normal(ids: Ints, salt: int) -> Floats:
    """A standard normal value that belongs to the id (Box-Muller on two hashes)."""
    u = (_mix(ids, 2 * salt + 100) + 1.0) / 2.0**63
    v = _mix(ids, 2 * salt + 101) / 2.0**63
    out: Floats = np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)
    return out


def _taste(pairs: Ints, salt: int, turned: Floats) -> Floats:
    """Suitability of a pair, turned by a share of a right angle towards another draw; its variance stays 1."""
    angle = turned * np.pi / 2
    return np.cos(angle) * _normal(pairs, salt) + np.sin(angle) * _normal(pairs, salt + 50)


def _pages(rng: np.random.Generator, interest: Ints) -> tuple[Ints, Ints]:
    """Pages visited, ``(B, MAX_PAGES)``, and how many; two of three are on the user's interest (page mod `TOPICS`)."""
    n = len(interest)
    pages = _zipf(rng, 1.1, n * MAX_PAGES, PAGES).reshape(n, MAX_PAGES) - 1
    on_interest = rng.random((n, MAX_PAGES)) < 2 / 3
    pages = np.where(on_interest, pages // TOPICS * TOPICS + interest[:, None], pages)
    return pages, rng.integers(1, MAX_PAGES + 1, n)


def _names(names: list[str], index: Ints) -> npt.NDArray[np.object_]:
    out: npt.NDArray[np.object_] = np.array(names, object)[index]
    return out


def _hex(ids: Ints, salt: int) -> npt.NDArray[np.object_]:
    return np.array([f"{value:016x}" for value in _mix(ids, salt).tolist()], object)
