"""Load profiles: how many users send for how long, and how many failures are too many.

A profile is a TOML file. The named ones lie in ``loadtests/profiles/``; a path to a file of your own works as well.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loadtests.sources.sizes import DEFAULT_SIZES, parse_sizes
from serving.contract.errors import SettingsError

PROFILES = Path(__file__).parent / "profiles"

MAX_USERS = 1000
"""One generator process is one Python interpreter: beyond some dozens of users it measures itself, beyond this it is a typing error."""

MAX_DURATION_S = 24 * 3600
"""A day: samples are kept in memory, 33 bytes a request."""


class LoadProfile(BaseModel):
    """One way to load a service, in a closed loop.

    Attributes
    ----------
    name
        For people and reports.
    description
        What the profile is good for, one sentence.
    users
        Users that send at the same time, each waiting for its answer before it sends again.
    duration_s
        How long they send, in whole seconds (Locust knows no parts of one).
    candidates
        Sizes of requests and their weights: ``"20:20,100:60,500:20"``.
    payload_seed
        Seed of the generated requests: same seed, same bytes.
    max_error_pct
        Share of failed requests above which the test counts as failed, in percent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    description: str
    users: Annotated[int, Field(ge=1, le=MAX_USERS)]
    duration_s: Annotated[int, Field(ge=1, le=MAX_DURATION_S)]
    candidates: str = DEFAULT_SIZES
    payload_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    max_error_pct: Annotated[float, Field(ge=0, le=100)] = 0.0


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that come along."""
    return tuple(sorted(path.stem for path in PROFILES.glob("*.toml")))


def load_profile(name_or_path: str, **overrides: object) -> LoadProfile:
    """Read a profile; values of `overrides` that are not None replace what the file says.

    Raises
    ------
    SettingsError
        When there is no such profile, it cannot be parsed, or a value is out of bounds.
    """
    is_path = name_or_path.endswith(".toml")
    path = Path(name_or_path) if is_path else PROFILES / f"{name_or_path}.toml"
    if not is_path and name_or_path not in profile_names():
        names = ", ".join(profile_names())
        raise SettingsError(f"no profile is called {name_or_path!r}; there are {names}, or give the path of a .toml file")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"profile {path} cannot be read: {error}") from error
    document.update({key: value for key, value in overrides.items() if value is not None})
    try:
        profile = LoadProfile.model_validate(document)
    except ValidationError as error:
        lines = "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        raise SettingsError(f"profile {path} is not valid:\n{lines}") from error
    parse_sizes(profile.candidates)
    return profile
