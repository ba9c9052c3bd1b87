"""What the service under test says about itself: ``GET /v1/models``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from loadtests.errors import ServiceError
from loadtests.sources.access import Caller
from serving.contract.errors import SpecificationError
from serving.contract.fields import FeatureSpec, parse_spec

MODELS_PATH = "/v1/models"


@dataclass(frozen=True)
class Model:
    """A model that is served."""

    name: str
    version: str


@dataclass(frozen=True)
class Ranker(Model):
    """A model of the family ``ranking``.

    Attributes
    ----------
    max_candidates
        Most in one request.
    """

    features: FeatureSpec
    max_candidates: int


@dataclass(frozen=True)
class Classifier(Model):
    """A model of the family ``clip``.

    Attributes
    ----------
    max_images, max_labels
        Most in one request.
    is_multi_label
        Whether labels hold independently of each other where the caller does not say: then their probabilities do not sum to 1.
    """

    max_images: int
    max_labels: int
    is_multi_label: bool


M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Service:
    """The loaded models of a service, in its order: a route without a name asks the first one of a family."""

    host: str
    models: tuple[Ranker | Classifier, ...]

    def ranker(self, name: str | None) -> Ranker:
        """Return the ranking model of this name, or the first one; raises `ServiceError`."""
        return self._find(Ranker, "ranking", "ranking requests", name)

    def classifier(self, name: str | None) -> Classifier:
        """Return the model of this name that classifies, or the first one; raises `ServiceError`."""
        return self._find(Classifier, "clip", "images to classify", name)

    def _find(self, kind: type[M], family: str, what: str, name: str | None) -> M:
        for model in self.models:
            if isinstance(model, kind) and name in (None, model.name):
                return model
        wanted = f"no model of the family {family!r}" + ("" if name is None else f" that is called {name!r}")
        raise ServiceError(f"{self.host} serves {wanted}, so there is nothing to send {what} to; it serves {self.told()}")

    def told(self) -> str:
        """What is served, for a message."""
        names = [f"{model.name} ({'ranking' if isinstance(model, Ranker) else 'clip'})" for model in self.models]
        return ", ".join(names) or "no model: look at its /readyz"


def fetch_service(caller: Caller) -> Service:
    """Ask what is served. Models of a family that is not known here are left out.

    Raises
    ------
    ServiceError
        It does not answer, or not with a list of models.
    SettingsError
        The token is missing or refused, or the certificate does not hold.
    """
    document = caller.ask(MODELS_PATH)
    source = caller.host + MODELS_PATH
    try:
        makers = {"ranking": _ranker, "clip": _classifier}
        models: list[Any] = [makers[model["family"]](model, source) for model in document["models"] if model["family"] in makers]
        return Service(caller.host, tuple(models))
    except (LookupError, TypeError, ValueError) as error:
        raise ServiceError(f"{source} answered something that is not a list of models: {type(error).__name__}: {error}") from error
    except SpecificationError as error:
        raise ServiceError(str(error)) from error


def _ranker(model: Mapping[str, Any], source: str) -> Ranker:
    most = _positive(model, "max_candidates")
    return Ranker(str(model["name"]), str(model["version"]), parse_spec(model["features"], source), most)


def _classifier(model: Mapping[str, Any], source: str) -> Classifier:
    is_multi_label = model["clip"]["scoring"]["kind"] == "sigmoid"
    name, version = str(model["name"]), str(model["version"])
    return Classifier(name, version, _positive(model, "max_images"), _positive(model, "max_labels"), is_multi_label)


def _positive(model: Mapping[str, Any], key: str) -> int:
    number = int(model[key])
    if number < 1:
        raise ValueError(f"{key} is {number}, at least 1 is needed")
    return number
