"""What the service under test says about itself: ``GET /v1/models``."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from loadtests.errors import ServiceError
from serving.contract.errors import SettingsError, SpecificationError
from serving.contract.fields import FeatureSpec, parse_spec

MODELS_PATH = "/v1/models"

TIMEOUT_S = 5.0
"""A service that is up answers a list of models in milliseconds."""

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""A specification of the largest allowed size (1,000 fields) is about 0.3 MB."""


@dataclass(frozen=True)
class ServedModel:
    """The ranking model that the requests are made for."""

    name: str
    version: str
    features: FeatureSpec
    max_candidates: int


def check_host(host: str) -> str:
    """Return `host` without a trailing slash.

    Raises
    ------
    SettingsError
        When it is not ``http://…`` or ``https://…``.
    """
    try:
        parts = urllib.parse.urlsplit(host)
        parts.port  # noqa: B018 - raises where the port is no number
    except ValueError as error:
        raise SettingsError(f"host {host!r} is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"host {host!r} must be like http://127.0.0.1:3000")
    return host.rstrip("/")


def fetch_model(host: str) -> ServedModel:
    """Ask the service which ranking model it serves; the first one, where it serves several.

    Raises
    ------
    ServiceError
        When it does not answer, or not with a ranking model.
    SettingsError
        When `host` is no address.
    """
    url = check_host(host) + MODELS_PATH
    # No proxy, whatever the environment says: the load goes straight to the host, and so must this.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            document = json.loads(answer.read(MAX_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        error.close()
        raise ServiceError(f"GET {url} was answered with HTTP {error.code}; is this a Pilotage ranking service?") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ServiceError(f"GET {url} got no usable answer ({reason}); start the service, or give its address with --host") from error
    return _ranking_model(document, url)


def _ranking_model(document: Any, url: str) -> ServedModel:
    try:
        models = [model for model in document["models"] if model["family"] == "ranking"]
        if not models:
            raise ServiceError(f"{url} lists no model of the family 'ranking', so there is nothing to send ranking requests to")
        first = models[0]
        max_candidates = int(first["max_candidates"])
        if max_candidates < 1:
            raise ServiceError(f"{url} says max_candidates is {max_candidates}, at least 1 is needed")
        return ServedModel(
            name=str(first["name"]),
            version=str(first["version"]),
            features=parse_spec(first["features"], url),
            max_candidates=max_candidates,
        )
    except (LookupError, TypeError, ValueError) as error:
        raise ServiceError(f"{url} answered something that is not a list of models: {type(error).__name__}: {error}") from error
    except SpecificationError as error:
        raise ServiceError(str(error)) from error
