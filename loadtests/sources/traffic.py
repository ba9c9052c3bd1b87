"""The ``[traffic]`` table of a load profile: which requests are sent, in which mix, as whom.

::

    [traffic]
    token_file = "token"                 # if the service wants one

    [[traffic.requests]]
    endpoint = "rank"                    # rank, rank-arrow, infer or classify
    weight = 70
    candidates = "20:20,100:60,500:20"
    deadline_ms = 50

    [[traffic.requests]]
    endpoint = "classify"
    weight = 30
    pixels = "640x480:2,1024x768"
    labels = 100

Without ``requests`` the first model that is served is asked: ``rank`` of a ranking model, ``classify`` of a CLIP model.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from loadtests.mistakes import mistakes_told
from loadtests.sources.access import Access
from loadtests.sources.classify import Form
from loadtests.sources.labels import COUNT
from loadtests.sources.payloads import POOL_SIZE, TOP_K
from loadtests.sources.photographs import parse_pixels
from loadtests.sources.rows import Values
from loadtests.sources.sizes import DEFAULT_SIZES, parse_sizes
from loadtests.sources.weights import parse_weights
from serving.contract.errors import SettingsError

MAX_TIMEOUT_MS = 3_600_000
"""Longest deadline that the service reads from a header."""

CLASSIFY_BODIES = 64
"""Bodies with images in a pool, some 10 MB with the default pictures."""

DEFAULT_PIXELS = "640x480:60,1024x768:30,2048x1536:10"
"""An assumption, not a measurement of your traffic: most pictures were made small before they were sent, some come as they were taken."""

ENDPOINTS = ("rank", "rank-arrow", "infer", "classify")

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Requests(_Frozen):
    """What all kinds have.

    Attributes
    ----------
    name
        In samples, reports and objectives; the endpoint's, where it is left out. Two entries of one endpoint need two names.
    weight
        Share of the calls, against the other entries' weights.
    model
        Name of the model that is asked; the first one of its family, where it is left out.
    deadline_ms
        How long the caller waits: the service is told (``x-request-timeout-ms``), and a later answer counts as failed.
        None takes the traffic's.
    """

    name: Name = ""
    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    model: str | None = None
    deadline_ms: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_MS)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_of_endpoint(cls, data: object) -> object:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("endpoint"), str):
            return {**data, "name": data["endpoint"]}
        return data


def _readable(parse: Callable[[str], object], text: str) -> str:
    """Hand `text` on if it can be parsed; pydantic wants a `ValueError`."""
    try:
        parse(text)
    except SettingsError as error:
        raise ValueError(str(error)) from error
    return text


class RankRequests(_Requests):
    """Requests to a ranking model: JSON (``rank``), Arrow (``rank-arrow``) or tensors (``infer``), of the same seed the same values.

    Attributes
    ----------
    bodies
        Distinct bodies, which are made beforehand and sent round and round.
    candidates
        Sizes with weights, ``"20:20,100:60,500:20"``; those above the service's limit are cut to it.
    top_k
        How many candidates are wanted back; 0 asks for all. ``infer`` always answers all.
    recorded
        File with requests to send in place of made-up ones, one JSON body a line; ``rank`` sends them byte for byte.
    """

    endpoint: Literal["rank", "rank-arrow", "infer"]
    bodies: Annotated[int, Field(ge=1, le=100_000)] = POOL_SIZE
    candidates: str = DEFAULT_SIZES
    top_k: Annotated[int, Field(ge=0, le=2**31)] = TOP_K
    recorded: Path | None = None

    @field_validator("candidates")
    @classmethod
    def _sizes(cls, text: str) -> str:
        return _readable(parse_sizes, text)


class ClassifyRequests(_Requests):
    """Requests to a model that classifies images.

    Attributes
    ----------
    bodies
        Distinct bodies, which are made beforehand and sent round and round.
    form
        ``multipart``, ``base64`` (in JSON) or ``image`` (one file as the body, options in the query).
    images
        Images a request, with weights: ``"1:90,4:10"``.
    pixels
        Width x height of images, with weights.
    format
        ``jpeg`` (quality 85) or ``png``.
    pictures
        Distinct pictures; bodies are made of them. 10 keep the default weights of `pixels` exactly, and are drawn in some seconds.
    labels
        How many labels a made-up list has, or the labels themselves.
    label_lists
        Distinct lists of made-up labels, of which the first are asked for most (Zipf).
    label_set
        Sent in place of labels: the name of a registered set. Together with `labels` it is registered, if it is not there.
    warm
        Whether the lists are shown to the service before the load, so that their embeddings are known. Else the first request of each pays.
    new_label_pct
        Share of requests that have one label which was never asked before, in percent: each costs a run of the text tower.
    top_k
        How many labels are wanted back; 0 asks for all.
    templates
        Name of a set of templates; None leaves it to the model.
    multi_label
        Whether labels hold independently of each other; None leaves it to the model.
    """

    endpoint: Literal["classify"]
    bodies: Annotated[int, Field(ge=1, le=100_000)] = CLASSIFY_BODIES
    form: Form = "multipart"
    images: str = "1"
    pixels: str = DEFAULT_PIXELS
    format: Literal["jpeg", "png"] = "jpeg"
    pictures: Annotated[int, Field(ge=1, le=10_000)] = 10
    labels: Annotated[int, Field(ge=1, le=COUNT)] | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    label_lists: Annotated[int, Field(ge=1, le=10_000)] = 1
    label_set: Name | None = None
    warm: bool = True
    new_label_pct: Annotated[float, Field(ge=0, le=100)] = 0.0
    top_k: Annotated[int, Field(ge=0, le=2**31)] = 0
    templates: str | None = None
    multi_label: bool | None = None

    @field_validator("images")
    @classmethod
    def _image_counts(cls, text: str) -> str:
        return _readable(lambda text: parse_sizes(text, what="images"), text)

    @field_validator("pixels")
    @classmethod
    def _pixels(cls, text: str) -> str:
        return _readable(parse_pixels, text)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.form == "image" and tuple(parse_sizes(self.images, what="images")) != (1,):
            raise ValueError(f"form 'image' sends one image a request, images is {self.images!r}; take multipart or base64 for more")
        if self.label_lists > 1 and not isinstance(self.labels, int | None):
            raise ValueError(f"label_lists is {self.label_lists}, but the labels are given; lists of their own need entries of their own")
        if self.label_set is not None and (self.label_lists > 1 or self.new_label_pct):
            raise ValueError("a label_set is one list of known labels: leave out label_lists and new_label_pct")
        return self


Requests = Annotated[RankRequests | ClassifyRequests, Field(discriminator="endpoint")]


class Traffic(_Frozen):
    """What is sent.

    Attributes
    ----------
    requests
        Kinds of requests with their weights; empty asks the first model that is served.
    values
        How the values of ranking requests are made up.
    deadline_ms
        Of all requests that have none of their own; None waits.
    token_file, ca_file
        See `Access`; relative paths start at the working directory, as everywhere on the command line.
    new_label_salt
        What makes new labels new; None draws it, so that they are new to a service that has seen an earlier run.
    """

    requests: Annotated[tuple[Requests, ...], Field(max_length=255)] = ()
    values: Values = Values()
    deadline_ms: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_MS)] | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    new_label_salt: Annotated[str, Field(pattern=r"^[a-z0-9]{1,32}$")] | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [entry.name for entry in self.requests]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{names.count(name)} entries are called {name!r}; give each a name of its own")
        return self

    @property
    def access(self) -> Access:
        """How the service is reached; `Access.tls_context` is for whoever opens the connections."""
        return Access(self.token_file, self.ca_file)


def read_traffic(document: object, source: str) -> Traffic:
    """Validate a ``[traffic]`` table.

    Raises
    ------
    SettingsError
        One line a mistake.
    """
    try:
        return Traffic.model_validate(document)
    except ValidationError as error:
        raise SettingsError(f"the traffic of {source} is not valid:\n{mistakes_told(error, ENDPOINTS, 'traffic')}") from error


def parse_traffic(text: str) -> Traffic:
    """Parse a mix such as ``rank:70,classify:30``, the path of a .toml file with a table ``[traffic]``, or that table as JSON.

    Raises
    ------
    SettingsError
        It is none of these, or not valid.
    """
    try:
        if text.lstrip().startswith("{"):
            return read_traffic(json.loads(text), "the command line")
        if not text.endswith(".toml"):
            return Traffic(requests=parse_mix(text))
        document = tomllib.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"traffic {text} cannot be read: {error}") from error
    if "traffic" not in document:
        raise SettingsError(f"{text} has no table [traffic]")
    return read_traffic(document["traffic"], text)


def parse_mix(text: str) -> tuple[RankRequests | ClassifyRequests, ...]:
    """Parse ``rank`` or ``rank:70,classify:30``: endpoints with weights, all else as by default.

    Raises
    ------
    SettingsError
        It is not written like that, or an endpoint is not known.
    """
    weights = parse_weights(text, "endpoints", "rank:70,classify:30", _endpoint)
    return read_traffic({"requests": [{"endpoint": name, "weight": weight} for name, weight in weights.items()]}, text).requests


def _endpoint(word: str) -> str:
    if word not in ENDPOINTS:
        raise ValueError(f"no endpoint is called {word!r}; there are {', '.join(ENDPOINTS)}")
    return word
