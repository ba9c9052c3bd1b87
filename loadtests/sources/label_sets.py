"""Labels that the service knows before the load begins: named sets registered, lists of labels embedded."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from urllib.parse import quote

import msgspec
from PIL import Image

from loadtests.errors import ServiceError
from loadtests.sources.access import Caller, NoSuchThing
from loadtests.sources.service import Classifier
from serving.contract.errors import SettingsError

READY_LIMIT_S = 120.0
"""Longest wait for a label set: embedding the most labels that a service takes by default lasts minutes, with those of a test seconds."""

WARM_LIMIT_S = 60.0
"""Longest wait for one list of labels; the service itself refuses what would take over ``PILOTAGE_TEXT_BUDGET_S``, by default 10 s."""

POLL_S = 0.2


def label_set(caller: Caller, model: Classifier, name: str, labels: Sequence[str] | None) -> tuple[str, ...]:
    """Return the labels of a set, which is registered if it is not there and waited for until `model` has embedded it.

    It stays when the test is over: a later one finds it ready.

    Raises
    ------
    SettingsError
        It is not there and `labels` is None, or it has other labels.
    ServiceError
        The service refuses it, or does not get ready.
    """
    path = f"/v1/label-sets/{quote(name)}"
    try:
        found = tuple(caller.ask(path)["labels"])
    except NoSuchThing as error:
        if labels is None:
            raise SettingsError(f"{error}; give its labels as well, to have it registered") from error
        caller.ask(path, method="PUT", body=msgspec.json.encode({"labels": labels}), media="application/json")
        found = tuple(labels)
    if labels is not None and found != tuple(labels):
        raise SettingsError(
            f"{caller.host} has a label set {name!r} with {len(found)} labels that are not the ones given; take another name"
        )
    deadline = time.monotonic() + READY_LIMIT_S
    while not _is_ready(caller, path, model):
        if time.monotonic() > deadline:
            raise ServiceError(f"the label set {name!r} was not embedded within {READY_LIMIT_S:.0f} s; look at GET {path}")
        time.sleep(POLL_S)
    return found


def _is_ready(caller: Caller, path: str, model: Classifier) -> bool:
    return any(each["name"] == model.name and each["ready"] for each in caller.ask(path)["models"])


def warm(caller: Caller, path: str, labels: Sequence[str], templates: str | None) -> None:
    """Ask once for a list of labels, so that their embeddings are kept.

    Raises
    ------
    SettingsError, ServiceError
        The service refuses it, for the reason that is told.
    """
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), "grey").save(picture, "PNG")
    question = {"images": [base64.b64encode(picture.getvalue()).decode()], "labels": labels, "top_k": 1}
    body = msgspec.json.encode(question if templates is None else {**question, "templates": templates})
    caller.ask(path, method="POST", body=body, media="application/json", timeout_s=WARM_LIMIT_S)
