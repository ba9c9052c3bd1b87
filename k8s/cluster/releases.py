"""A release as it stands in a pod template of the chart: the image, and where bundles come from.

Names are the chart's: container ``service``, init containers and volumes ``bundle-NAME``.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from k8s.cluster.api import Object
from k8s.errors import Refused
from k8s.rollout.arms import Release

CONTAINER, BUNDLE_PREFIX = "service", "bundle-"

BUNDLE_SETTINGS = ("PILOTAGE_BUNDLE", "PILOTAGE_BUNDLE_SHA256")

NAME_ANNOTATION, SUM_ANNOTATION = "pilotage.dev/release", "pilotage.dev/release-sum"
"""Name of the release, and of what it was the name: where somebody else has changed the image since, the name does not count."""

ARM_LABEL = "pilotage.dev/arm"

SUM_LENGTH = 8


def release_of(template: Object, where: str) -> Release:
    """Return what a pod template runs.

    Raises
    ------
    Refused
        It is not the chart's.
    """
    container = _service(template, where)
    bundle: dict[str, Any] = {}
    spec = template["spec"]
    references = {
        volume["name"]: volume["image"]["reference"]
        for volume in spec.get("volumes") or []
        if volume["name"].startswith(BUNDLE_PREFIX) and "image" in volume
    }
    downloads = {each["name"]: each["args"] for each in spec.get("initContainers") or [] if each["name"].startswith(BUNDLE_PREFIX)}
    settings = {each["name"]: each["value"] for each in container.get("env") or [] if each["name"] in BUNDLE_SETTINGS and "value" in each}
    for key, value in (("references", references), ("downloads", downloads), ("settings", settings)):
        if value:
            bundle[key] = value
    image = str(container["image"])
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    named = annotations.get(NAME_ANNOTATION) if annotations.get(SUM_ANNOTATION) == sum_of(image, bundle) else None
    found = called_by_content(Release("", image, bundle))
    return replace(found, name=named) if named else found


def called_by_content(release: Release) -> Release:
    """Return a release under the name that it has where nobody gave it one: what it runs."""
    return replace(release, name=f"{_tag(str(release.image))}-{sum_of(str(release.image), release.bundle)}")


def with_release(template: Object, release: Release, where: str) -> Object:
    """Return the template with this release in it.

    Raises
    ------
    Refused
        The release names a bundle that the template has not, or values of its own.
    """
    if release.values:
        named = ", ".join(release.values)
        raise Refused(
            f"release {release.name} has values of its own ({named}): on a cluster those are the chart's, by `helm upgrade`; or it began"
            " with rollout.writesTo: values, which must stay until it is over"
        )
    found = copy.deepcopy(template)
    container = _service(found, where)
    spec = found["spec"]
    if release.image is not None:
        container["image"] = release.image
    volumes = {volume["name"]: volume for volume in spec.get("volumes") or []}
    inits = {each["name"]: each for each in spec.get("initContainers") or []}
    for name, each in inits.items():
        if name.startswith(BUNDLE_PREFIX) and release.image is not None:
            each["image"] = release.image
    for name, reference in (release.bundle.get("references") or {}).items():
        _there(volumes, name, where)["image"]["reference"] = reference
    for name, args in (release.bundle.get("downloads") or {}).items():
        _there(inits, name, where)["args"] = list(args)
    env = container.setdefault("env", [])
    for name, value in (release.bundle.get("settings") or {}).items():
        entry = next((each for each in env if each["name"] == name), None)
        if entry is None:
            env.append({"name": name, "value": value})
        else:
            entry["value"] = value
    whole = release_of(found, where)
    annotations = found.setdefault("metadata", {}).setdefault("annotations", {})
    annotations[NAME_ANNOTATION] = release.name
    annotations[SUM_ANNOTATION] = sum_of(str(whole.image), whole.bundle)
    return found


def changes_of(template: Object, release: Release, where: str) -> Object:
    """Return the part of a template that this release says, with the names that lists are merged by: what the rollout owns of stable."""
    whole = with_release(template, release, where)
    container = _service(whole, where)
    service: Object = {"name": CONTAINER, "image": container["image"]}
    env = [each for each in container.get("env") or [] if each["name"] in BUNDLE_SETTINGS and "value" in each]
    spec: Object = {"containers": [service | ({"env": env} if env else {})]}
    inits = [each for each in whole["spec"].get("initContainers") or [] if each["name"].startswith(BUNDLE_PREFIX)]
    volumes = [each for each in whole["spec"].get("volumes") or [] if each["name"].startswith(BUNDLE_PREFIX) and "image" in each]
    if inits:
        spec["initContainers"] = [{"name": each["name"], "image": each["image"], "args": each["args"]} for each in inits]
    if volumes:
        spec["volumes"] = [{"name": each["name"], "image": {"reference": each["image"]["reference"]}} for each in volumes]
    annotations = {key: whole["metadata"]["annotations"][key] for key in (NAME_ANNOTATION, SUM_ANNOTATION)}
    return {"metadata": {"annotations": annotations}, "spec": spec}


def beside_release(template: Object, where: str) -> Object:
    """Return what a template says besides its release and its arm: what a promotion in the cluster does not carry over."""
    found = copy.deepcopy(template)
    release = release_of(found, where)
    container = _service(found, where)
    container["image"] = ""
    container["env"] = [each for each in container.get("env") or [] if each["name"] not in BUNDLE_SETTINGS]
    for volume in found["spec"].get("volumes") or []:
        if volume["name"] in (release.bundle.get("references") or {}):
            volume["image"]["reference"] = ""
    for each in found["spec"].get("initContainers") or []:
        if each["name"] in (release.bundle.get("downloads") or {}):
            each |= {"image": "", "args": []}
    text = json.dumps(found, sort_keys=True)
    arm = ((found.get("metadata") or {}).get("labels") or {}).get(ARM_LABEL, "")
    whole: Object = json.loads(
        text.replace(f'"{ARM_LABEL}": "{arm}"', f'"{ARM_LABEL}": ""').replace(f"pilotage.arm={arm}", "pilotage.arm=")
    )
    return whole


def sum_of(image: str, bundle: Mapping[str, Any]) -> str:
    """Return a short checksum of what a release is."""
    return hashlib.sha256(json.dumps([image, bundle], sort_keys=True).encode()).hexdigest()[:SUM_LENGTH]


def _service(template: Object, where: str) -> Object:
    for container in template["spec"]["containers"]:
        if container["name"] == CONTAINER:
            found: Object = container
            return found
    raise Refused(f"{where} has no container called {CONTAINER}: it is not the chart's")


def _there(named: Mapping[str, Object], name: str, where: str) -> Object:
    if name not in named:
        bundles = [each for each in named if each.startswith(BUNDLE_PREFIX)]
        raise Refused(f"the release changes {name}, which {where} has not; it has {', '.join(bundles) or 'no bundles of this kind'}")
    return named[name]


def _tag(image: str) -> str:
    """Tag of an image, or the beginning of its digest."""
    name, _, digest = image.partition("@sha256:")
    last = name.rpartition("/")[2]
    return digest[:12] or last.partition(":")[2] or last
