"""The arms as values of the chart: whoever applies the chart makes their Deployments, and this only looks at them."""

from __future__ import annotations

from dataclasses import replace

from k8s.cluster.api import Api
from k8s.cluster.applied import applied_values, is_applied, require_applied
from k8s.cluster.fleet import DeploymentFleet
from k8s.cluster.names import Names
from k8s.cluster.values import Values, ValuesFile, image_values
from k8s.errors import Refused, RolloutError
from k8s.rollout.arms import Arm, ArmState, Release

ARMS_OF_VALUES: tuple[Arm, ...] = ("baseline", "canary")

STABLE_KEYS = ("image", "bundles")


class ValuesFleet:
    """Runs the arms by a values file.

    A release has among its `values` ``bundles``, as the chart's values say them; the one to go back to also ``before``: what the file said
    of stable before the rollout.
    """

    def __init__(self, api: Api, names: Names, file: ValuesFile) -> None:
        self._api, self._names, self._file = api, names, file
        self._cluster = DeploymentFleet(api, names)

    def ensure(self, arm: Arm, release: Release, replicas: int | None) -> None:
        """Write what the arm is to run.

        Raises
        ------
        Refused
            The rollout began while the chart's values said that it writes to the cluster, or the arm is a further canary.
        """
        if "bundles" not in release.values:
            raise Refused(f"the rollout of {release.name} began with rollout.writesTo: cluster: set that again, and let it end or abort it")
        self.recognise(release)
        if arm == "stable":
            said = self._of_stable(release)
            self._file.change(lambda values: _replace(values, said), again=True)
            return
        if arm not in ARMS_OF_VALUES:
            raise Refused(f"values have one canary, and no {arm}: try one release at a time")
        whole = {"enabled": True, "replicas": replicas, "image": image_values(str(release.image)), "bundles": release.values["bundles"]}
        self._file.change(lambda values: values.update({arm: whole}), again=True)

    def state(self, arm: Arm) -> ArmState:
        """How the arm is now; it runs no release for certain as long as the last change of the values is not in the cluster."""
        found, planned = self._cluster.state(arm), self._file.read().get(arm) or {}
        if not found.wanted and planned.get("enabled"):
            return ArmState(wanted=int(planned["replicas"]), reason=f"{found.reason}; {self._file} asks for it")
        if not is_applied(self._api, self._names, self._file):
            return replace(found, release=None, reason=found.reason or f"what {self._file} says is not in the cluster yet")
        return found

    def stable_release(self) -> Release:
        """What stable runs, and what the file says of it."""
        require_applied(self._api, self._names, self._file)
        values = self._file.read()
        before = {key: values[key] for key in STABLE_KEYS if key in values}
        found = self._cluster.recognised(self._cluster.stable_release())
        return replace(found, values={"bundles": self._said("stable")["bundles"], "before": before})

    def releases(self) -> list[Release]:
        """What the chart's values say of the canary.

        Raises
        ------
        Refused
            It differs from stable in more than image and bundles, or none is prepared.
        """
        canary, stable = self._said("canary"), self._said("stable")
        others = [key for key in canary if key not in (*STABLE_KEYS, "replicas") and canary[key] != stable[key]]
        if others:
            raise Refused(
                f"canary.{' and canary.'.join(others)} of the values differ from stable's, and a promotion gives stable image and bundles"
                " alone: change these for all arms first, without a rollout"
            )
        return [replace(self._cluster.prepared("canary"), values={"bundles": canary["bundles"]})]

    def recognise(self, release: Release) -> None:
        """Know a release by its name where it is met: values have no names."""
        self._cluster.recognise(release)

    def floor(self, replicas: int | None) -> None:
        """Raise the scaler's minimum by ``autoscaling.minReplicas``, within its maximum, and leave it to your values again."""
        if replicas is None:
            self._file.change(lambda values: values.pop("autoscaling", None), again=True)
            return
        wanted = self._minimum(replicas)
        if wanted is not None:
            self._file.change(lambda values: values.update(autoscaling={"minReplicas": wanted}), again=True)

    def remove(self, arm: Arm) -> None:
        """Take the arm out of the values."""
        if arm == "stable":
            raise RolloutError("stable is never removed")
        self._file.change(lambda values: values.pop(arm, None), again=True)

    def _of_stable(self, release: Release) -> Values:
        """Return what the file says of stable when stable runs this release."""
        if "before" in release.values:
            return dict(release.values["before"])
        said: Values = {"image": image_values(str(release.image))}
        bundles = release.values["bundles"]
        # What does not change stays yours to say; what has been said once is said on, or going back would not.
        if "bundles" in self._file.read() or bundles != self._said("stable")["bundles"]:
            said["bundles"] = bundles
        return said

    def _minimum(self, replicas: int) -> int | None:
        """Return the minimum to ask for; None where what a scaler has is enough, or there is none to be read."""
        for path, field in self._names.scalers:
            try:
                found = self._api.get(path)
            except Refused:
                continue
            if found is not None:
                most = int(found["spec"].get(field.replace("min", "max")) or replicas)
                written = "autoscaling" in self._file.read()
                least = min(replicas, most)
                return least if written or int(found["spec"].get(field) or 1) < least else None
        return None

    def _said(self, arm: Arm) -> Values:
        """Read what the values say of an arm."""
        found = applied_values(self._api, self._names)
        if found is None:
            raise Refused(f"ConfigMap {self._names.rollout} has no values.json: install the chart with rollout.writesTo=values")
        return dict(found["arms"][arm])


def _replace(values: Values, said: Values) -> None:
    for key in STABLE_KEYS:
        values.pop(key, None)
    values |= said
