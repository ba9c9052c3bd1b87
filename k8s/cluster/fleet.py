"""The arms as Deployments of the chart: canary and baseline are the rollout's, stable is Helm's until a release is promoted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import takewhile

from k8s.cluster.api import Api, FieldConflict, Object
from k8s.cluster.belonging import owners
from k8s.cluster.names import Names
from k8s.cluster.pods import largest_bytes, ready_endpoints, restarts, trouble
from k8s.cluster.releases import ARM_LABEL, SUM_ANNOTATION, beside_release, changes_of, release_of, sum_of, with_release
from k8s.cluster.values import ValuesFile, image_values
from k8s.errors import Refused, RolloutError
from k8s.rollout.arms import CANARIES, Arm, ArmState, Release

FLOOR_ANNOTATION = "pilotage.dev/own-minimum"
"""What a scaler's minimum was before the rollout raised it."""

HELM = ("helm", "Helm")
"""Managers whose fields of stable a promotion takes over. Others (a GitOps controller that applies itself) would put the old one back."""


class DeploymentFleet:
    """Runs the arms.

    Parameters
    ----------
    take_over
        Field managers whose fields of stable may be taken over, beside Helm.
    values
        Promotes in place of this: writes the release into values, from which a GitOps controller, or `helm upgrade`, makes stable.
    """

    def __init__(self, api: Api, names: Names, take_over: tuple[str, ...] = (), values: ValuesFile | None = None) -> None:
        self._api, self._names, self._values = api, names, values
        self._take_over = {*HELM, *take_over}
        self._names_of: dict[str, str] = {}

    def ensure(self, arm: Arm, release: Release, replicas: int | None) -> None:
        """Make the arm run this release."""
        if arm == "stable":
            self._promote(release)
            return
        stable = self._stable()
        body = self._made(arm)
        where = f"{arm}.json of {self._names.rollout}"
        body["spec"]["template"] = with_release(body["spec"]["template"], release, where)
        body["spec"]["replicas"] = replicas
        # With its owner goes what the rollout made: `helm uninstall` leaves nothing behind.
        body["metadata"]["ownerReferences"] = owners(stable)
        self._api.apply(self._names.deployment(arm), body, force=True)

    def state(self, arm: Arm) -> ArmState:
        """How the arm is now."""
        found = self._api.get(self._names.deployment(arm))
        if found is None or found["metadata"].get("deletionTimestamp"):
            return ArmState(reason=f"there is no Deployment {self._names.arm(arm)}")
        selector = found["spec"]["selector"]["matchLabels"]
        pods = [pod for pod in self._api.list(self._names.pods, selector) if not pod["metadata"].get("deletionTimestamp")]
        slices = self._api.list(self._names.endpoint_slices, {"kubernetes.io/service-name": self._names.arm(arm)})
        wanted = int(found["spec"].get("replicas", 1))
        ready = ready_endpoints(slices)
        release = self._running(found) if _is_rolled(found, wanted) else None
        well = release is not None and ready >= wanted
        reason = None if well else trouble(pods) or _said(found) or f"{ready} of {wanted} endpoints are ready"
        return ArmState(release, ready, wanted, restarts(pods), self._memory_bytes(selector), reason)

    def stable_release(self) -> Release:
        """What stable runs."""
        return release_of(self._stable()["spec"]["template"], self._names.arm("stable"))

    def recognise(self, release: Release) -> None:
        """Know a release by its name where it is met without one, since somebody else made the Deployment."""
        self._names_of[sum_of(str(release.image), release.bundle)] = release.name

    def recognised(self, release: Release) -> Release:
        """Return a release under the name that it is known by."""
        return replace(release, name=self._names_of.get(sum_of(str(release.image), release.bundle), release.name))

    def prepared(self, arm: Arm) -> Release:
        """Return what the chart prepared for an arm, whatever else it changes."""
        return release_of(self._made(arm)["spec"]["template"], f"{arm}.json of {self._names.rollout}")

    def releases(self) -> list[Release]:
        """What the chart's values say of each canary, in the order of the arms: image and bundles.

        Raises
        ------
        Refused
            A canary differs from stable in more than a promotion in the cluster carries over, or none is prepared.
        """
        prepared = self._prepared()
        baseline = self._made("baseline", prepared)
        there = list(takewhile(lambda arm: f"{arm}.json" in prepared, CANARIES)) or ["canary"]
        return [self._release(arm, self._made(arm, prepared), baseline) for arm in there]

    def floor(self, replicas: int | None) -> None:
        """Raise a scaler's minimum, and give it back. Without the right to change the scaler it is left alone."""
        for path, field in self._names.scalers:
            try:
                self._floor(path, field, replicas)
            except Refused:
                continue

    def remove(self, arm: Arm) -> None:
        """Delete the arm's Deployment."""
        if arm == "stable":
            raise RolloutError("stable is never removed")
        self._api.delete(self._names.deployment(arm))

    def _promote(self, release: Release) -> None:
        name = self._names.arm("stable")
        found = self._stable()["spec"]["template"]
        template = changes_of(found, release, name)
        if self._values is not None:
            if release.bundle and dict(release.bundle) != dict(release_of(found, name).bundle):
                raise Refused(
                    f"{release.name} has other bundles than stable, and {self._values} says the image alone: let the rollout write all of"
                    " it into values (rollout.writesTo: values)"
                )
            # Whoever makes stable of values knows nothing of names: it is known by what it runs.
            self._names_of[template["metadata"]["annotations"][SUM_ANNOTATION]] = release.name
            image = image_values(str(release_of(with_release(found, release, name), name).image))
            self._values.change(lambda values: values.update(image=image), again=True)
            return
        metadata = {"name": name, "namespace": self._names.namespace}
        body: Object = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"template": template}}
        path = self._names.deployment("stable")
        try:
            self._api.apply(path, body)
        except FieldConflict as error:
            others = set(error.managers) - self._take_over
            if others:
                raise Refused(
                    f"{', '.join(sorted(others))} owns the release of {name} and would put it back: promote by values (--values), or"
                    " let the rollout take it over (--take-over)"
                ) from error
            self._api.apply(path, body, force=True)

    def _running(self, deployment: Object) -> str:
        return self.recognised(release_of(deployment["spec"]["template"], deployment["metadata"]["name"])).name

    def _floor(self, path: str, field: str, replicas: int | None) -> None:
        found = self._api.get(path)
        if found is None:
            return
        now = int(found["spec"].get(field) or 1)
        own = (found["metadata"].get("annotations") or {}).get(FLOOR_ANNOTATION)
        if replicas is None and own is not None:
            self._api.merge(path, {"metadata": {"annotations": {FLOOR_ANNOTATION: None}}, "spec": {field: int(own)}})
        elif replicas is not None and now < replicas:
            self._api.merge(path, {"metadata": {"annotations": {FLOOR_ANNOTATION: own or str(now)}}, "spec": {field: replicas}})

    def _stable(self) -> Object:
        found = self._api.get(self._names.deployment("stable"))
        if found is None:
            raise Refused(f"there is no Deployment {self._names.arm('stable')} in {self._names.namespace}: --name is the chart's full name")
        return found

    def _release(self, arm: Arm, made: Object, baseline: Object) -> Release:
        template, where = made["spec"]["template"], f"{arm}.json of {self._names.rollout}"
        if beside_release(template, where) != beside_release(baseline["spec"]["template"], where):
            raise Refused(
                f"the values of the {arm} differ from stable's in more than image and bundles (resources, settings, env), which a promotion"
                " does not carry over: roll these out by `helm upgrade`"
            )
        return release_of(template, where)

    def _prepared(self) -> dict[str, str]:
        """Read what the chart prepared, by its name."""
        found = self._api.get(self._names.config_map(self._names.rollout))
        return dict((found or {}).get("data") or {})

    def _made(self, arm: Arm, prepared: Mapping[str, str] | None = None) -> Object:
        """Read the Deployment that the chart prepared for an arm."""
        text = (self._prepared() if prepared is None else prepared).get(f"{arm}.json")
        if text is None:
            further = arm in CANARIES[1:]
            remedy = f"give {arm} back in rollout.variants of its values" if further else "install the chart with rollout.enabled=true"
            raise Refused(f"ConfigMap {self._names.rollout} has no {arm}.json: {remedy}")
        body: Object = json.loads(text)
        if body["spec"]["selector"]["matchLabels"].get(ARM_LABEL) != arm:
            raise Refused(f"{arm}.json of {self._names.rollout} does not select pods of the {arm}")
        return body

    def _memory_bytes(self, selector: dict[str, str]) -> int | None:
        try:
            return largest_bytes(self._api.list(self._names.pod_metrics, selector))
        except RolloutError:  # no metrics server, or no right to ask it: memory is not looked at
            return None


def _is_rolled(deployment: Object, wanted: int) -> bool:
    """Whether all pods are of the newest template, and there are as many as wanted, available."""
    status = deployment.get("status") or {}
    seen = int(status.get("observedGeneration") or 0) >= int(deployment["metadata"].get("generation") or 0)
    counts = [int(status.get(key) or 0) for key in ("replicas", "updatedReplicas", "availableReplicas")]
    return seen and counts == [wanted] * len(counts)


def _said(deployment: Object) -> str | None:
    """Return what the Deployment complains about."""
    for condition in (deployment.get("status") or {}).get("conditions") or []:
        if (condition.get("type"), condition.get("status")) in (("Progressing", "False"), ("ReplicaFailure", "True")):
            return f"{condition.get('reason')}: {condition.get('message')}"
    return None
