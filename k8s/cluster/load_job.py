"""Synthetic requests of a step on a cluster: Locust in the pods of a Job near the service, what it saw out of its log.

The Job is the chart's, `load.json`; here it gets a name, as many pods as the plan says, its arguments and owners. Those are the canaries:
the load goes with the last of them, whoever is left to take care of that, and they with stable.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

from k8s.cluster.api import Api, Object
from k8s.cluster.belonging import owners
from k8s.cluster.load_log import PodLog
from k8s.cluster.names import Names
from k8s.cluster.pods import failure, trouble
from k8s.errors import Refused, RolloutError, Unavailable
from k8s.rollout.arms import Arm
from k8s.rollout.loading import Comparing, load_options, longest_s, looks_of
from k8s.rollout.plan import Plan
from k8s.rollout.plan_tables import Step
from k8s.rollout.ports import Clock, Look
from serving.contract.errors import SettingsError

BODY = "load.json"
COMPONENT = "app.kubernetes.io/component"
INSTANCE = "app.kubernetes.io/instance"
JOB_LABEL = "batch.kubernetes.io/job-name"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"

CONTAINER = "tools"
MASTER_PORT = 5557

GRACE_S = 600
"""Beyond the longest that a step may take, for pods to be scheduled and images to be pulled: then the cluster ends the Job."""

QUIET_S = 60.0
"""Without a sample for so long it is told what the pods wait for; an image of some 700 MB may well take that to be pulled."""

REQUESTS = "requests.jsonl.gz"

MAX_PACKED_BYTES = 900_000
"""Of recorded requests. An object of the API may have 1 MiB."""

TAIL_LINES = 5
"""Of the log of a pod that failed."""


HERE = "let the engine's own machine send (workers = 0 in the plan's table [synthetic])"


class JobTraffic:
    """Loads the arms of a step by a Job; a `Traffic`.

    Parameters
    ----------
    host
        Address of the service inside the cluster, or of the gateway.
    addresses
        Where each arm is reached by itself; empty: by header at `host`.
    comparing
        Compares answers meanwhile.
    requests_file
        Recorded requests to send; None makes some up.

    Raises
    ------
    SettingsError
        Recorded requests cannot be read, or are too many.
    """

    def __init__(
        self,
        api: Api,
        names: Names,
        clock: Clock,
        plan: Plan,
        *,
        host: str,
        addresses: Mapping[Arm, str],
        comparing: Comparing,
        requests_file: Path | None = None,
    ) -> None:
        self._api, self._names, self._clock, self._plan = api, names, clock, plan
        self._host, self._addresses, self._comparing = host, addresses, comparing
        self._packed = None if requests_file is None else packed(requests_file)
        self._arms: tuple[Arm, ...] = ()
        self._job = ""
        self._log: PodLog | None = None
        self._heard_s = 0.0

    def prepared(self) -> Object:
        """Read the Job that the chart prepared.

        Raises
        ------
        Refused
            There is none.
        """
        found = self._api.get(self._names.config_map(self._names.rollout))
        text = ((found or {}).get("data") or {}).get(BODY)
        if text is None:
            raise Refused(
                f"ConfigMap {self._names.rollout} has no {BODY}: install the chart with rollout.enabled=true and an image `tools`,"
                f" or {HERE}"
            )
        body: Object = json.loads(text)
        return body

    def begin(self, step: Step, arms: Sequence[Arm]) -> None:
        """Begin to load these arms; what an engine before this one has left running is ended first."""
        self.end()
        body = self.prepared()
        for left in self._api.list(self._names.jobs, {key: body["metadata"]["labels"][key] for key in (COMPONENT, INSTANCE)}):
            self._api.delete(f"{self._names.jobs}/{left['metadata']['name']}")
        if self._packed is not None:
            self._keep(self._packed)
        made = self._made(body, step, arms)
        self._api.create(self._names.jobs, made)
        self._job, self._arms, self._heard_s = made["metadata"]["name"], tuple(arms), self._clock.now_s()
        self._log = PodLog(self._api, self._master, CONTAINER)
        self._comparing.begin(arms)

    def look(self) -> Mapping[Arm, Look]:
        """Return what came since the last look.

        Raises
        ------
        Unavailable
            A pod failed, or does not begin; or a part of the log was lost, which is said once.
        """
        if self._log is None:
            return {}
        gap = self._log.gap()
        if gap is not None:
            raise Unavailable(gap)
        answers = self._comparing.take()  # first, since it may have something to say
        chunks = self._log.take()
        looks = looks_of(self._arms, chunks, answers)
        if chunks:
            self._heard_s = self._clock.now_s()
        elif not looks:
            self._check(self._log)
        return looks

    def end(self) -> None:
        """Stop; nothing happens where nothing runs."""
        self._comparing.end()
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._job:
            self._api.delete(f"{self._names.jobs}/{self._job}")
            self._job = ""

    def _made(self, body: Object, step: Step, arms: Sequence[Arm]) -> Object:
        """Return the Job of a step. Its name is new each time: workers of one step never meet the master of another."""
        job = copy.deepcopy(body)
        metadata, spec = job["metadata"], job["spec"]
        metadata["name"] = f"{metadata['name']}-{secrets.token_hex(3)}"
        metadata["ownerReferences"] = [owner for canary in arms[:-1] for owner in owners(self._owner(canary))]
        workers = max((self._plan.synthetic.workers if self._plan.synthetic else None) or 1, 1)
        spec["completions"] = spec["parallelism"] = workers if workers == 1 else workers + 1
        spec["activeDeadlineSeconds"] = int(longest_s(self._plan, step)) + GRACE_S
        pod = spec["template"]["spec"]
        master = f"{metadata['name']}-0.{pod['subdomain']}.{self._names.namespace}.svc:{MASTER_PORT}"
        (container,) = [each for each in pod["containers"] if each["name"] == CONTAINER]
        container["args"] = [f"--workers={workers}", f"--master={master}", *self._recorded(pod), "--", *self._options(step, arms)]
        return job

    def _options(self, step: Step, arms: Sequence[Arm]) -> list[str]:
        profile = self._plan.synthetic.profile if self._plan.synthetic else ""
        options = load_options(self._plan, step, arms, self._host, self._addresses)
        return [*options, "--stream=-", *([f"--load-profile={profile}"] if profile else [])]

    def _recorded(self, pod: Object) -> list[str]:
        if self._packed is None:
            return []
        (folder,) = [
            mount["mountPath"]
            for each in pod["containers"]
            for mount in each["volumeMounts"]
            if each["name"] == CONTAINER and mount["name"] == self._names.requests
        ]
        return [f"--requests={folder}/{REQUESTS}", f"--requests-sha256={hashlib.sha256(self._packed).hexdigest()}"]

    def _keep(self, content: bytes) -> None:
        stable = self._owner("stable")
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self._names.requests, "namespace": self._names.namespace, "ownerReferences": owners(stable)},
            "binaryData": {REQUESTS: b64encode(content).decode()},
        }
        self._api.apply(self._names.config_map(self._names.requests), body, force=True)

    def _owner(self, arm: Arm) -> Object:
        found = self._api.get(self._names.deployment(arm))
        if found is None:
            raise Unavailable(f"there is no Deployment {self._names.arm(arm)}, with which the load is to go")
        return found

    def _pods(self) -> list[Object]:
        return self._api.list(self._names.pods, {JOB_LABEL: self._job})

    def _master(self) -> str | None:
        """Path of the pod that collects the samples; called by the thread that follows its log."""
        for pod in self._pods() if self._job else []:
            if (pod["metadata"].get("annotations") or {}).get(INDEX_ANNOTATION) == "0":
                return f"{self._names.pods}/{pod['metadata']['name']}"
        return None

    def _check(self, log: PodLog) -> None:
        """Nothing came: say why, if that is known.

        Raises
        ------
        Unavailable
            There is something to say.
        """
        job = self._api.get(f"{self._names.jobs}/{self._job}")
        if job is None:
            raise Unavailable(f"Job {self._job}, which loads the arms, was deleted by somebody")
        pods = self._pods()
        broken = next((said for pod in pods if (said := self._broken(pod)) is not None), None)
        said = broken or _ended(job)
        if said is not None:
            raise Unavailable(f"the load generator failed: {said}")
        quiet_s = self._clock.now_s() - self._heard_s
        if quiet_s > QUIET_S and not log.is_over:
            why = trouble(pods) or (None if pods else "it has no pods") or log.trouble or log.tail or "its log says nothing"
            raise Unavailable(f"no requests of Job {self._job} for {quiet_s:.0f} s: {why}")

    def _broken(self, pod: Object) -> str | None:
        """Say how a pod failed, with the end of its log where it can be read; None where it did not."""
        said = failure(pod)
        if said is None:
            return None
        try:
            lines = self._api.lines(
                f"{self._names.pods}/{pod['metadata']['name']}/log", {"container": CONTAINER, "tailLines": str(TAIL_LINES)}, QUIET_S
            )
            tail = " | ".join(line.decode(errors="replace").strip() for line in lines if not line.startswith(b"pilotage-"))
        except RolloutError:
            return said
        return f"{said}: {tail}" if tail else said


def packed(path: Path) -> bytes:
    """Return recorded requests as they go into a ConfigMap.

    Raises
    ------
    SettingsError
        They cannot be read, or are too many.
    """
    try:
        content = gzip.compress(path.read_bytes(), mtime=0)
    except OSError as error:
        raise SettingsError(f"recorded requests {path} cannot be read: {error}") from error
    if len(content) > MAX_PACKED_BYTES:
        raise SettingsError(
            f"recorded requests {path} take {len(content):,} bytes compressed, and a ConfigMap may have {MAX_PACKED_BYTES:,}: take fewer,"
            f" name in a load profile a file that the image `tools` has, or {HERE}"
        )
    return content


def _ended(job: Object) -> str | None:
    """Say why the Job as a whole failed; None where it did not."""
    for condition in (job.get("status") or {}).get("conditions") or []:
        if condition.get("type") in ("Failed", "FailureTarget") and condition.get("status") == "True":
            return condition.get("message") or condition.get("reason") or "not told why"
    return None
