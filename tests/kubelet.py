"""Runs the pods of Jobs as processes of this machine: the controller of Jobs, a kubelet and a container runtime, as far as load tests ask.

A pod's process gets the very command, arguments and variables of the template. Addresses of the cluster are replaced by those of loopback, and
files that are mounted from ConfigMaps lie in a folder.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from k8s.cluster.load_job import INDEX_ANNOTATION, JOB_LABEL
from k8s.cluster.names import Names
from k8s.local.processes import free_port
from tests.api_server import ApiServer

Object = dict[str, Any]
MASTER = re.compile(r"[\w-]+-0\.[\w-]+\.[\w-]+\.svc:\d+")
LIMIT_S = 30


class Kubelet:
    """The pods of the Jobs of a server.

    Parameters
    ----------
    addresses
        Of the cluster, and what they are here.
    folder
        For what is mounted.

    Attributes
    ----------
    processes
        By the path of the pod.
    """

    def __init__(self, server: ApiServer, names: Names, addresses: Mapping[str, str], folder: Path) -> None:
        self._server, self._names, self._addresses, self._folder = server, names, addresses, folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        # As in a cluster, where each pod has an address of its own: workers of one Job never meet the master of another.
        self._ports: defaultdict[str, int] = defaultdict(free_port)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._readers: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End what still runs, and what reads of it."""
        self._stop.set()
        self._thread.join(LIMIT_S)
        for process in self.processes.values():
            _end(process, signal.SIGKILL)
        for each in self._readers:
            each.join(LIMIT_S)

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            with self._server.memory.lock:
                jobs = {path: found for path, found in self._server.objects.items() if path.startswith(f"{self._names.jobs}/")}
            for job in jobs.values():
                self._keep(job)
            self._clean({job["metadata"]["name"] for job in jobs.values()})

    def _keep(self, job: Object) -> None:
        """Make the pods of a Job, tell how they are, and end them all when one has failed."""
        pods = [self._pod(job, index) for index in range(job["spec"]["completions"])]
        for pod in pods:
            if pod not in self.processes:
                self._begin(job, pod)
        codes = [self.processes[pod].poll() for pod in pods]
        for pod, code in zip(pods, codes, strict=True):
            self._tell(pod, code)
        if any(codes):
            job["status"] = {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}
            for pod in pods:
                _end(self.processes[pod], signal.SIGTERM)
        elif None not in codes:
            job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}

    def _pod(self, job: Object, index: int) -> str:
        return f"{self._names.pods}/{job['metadata']['name']}-{index}-x"

    def _begin(self, job: Object, pod: str) -> None:
        index = pod.rsplit("-", 2)[1]
        template = job["spec"]["template"]
        labels = {**template["metadata"]["labels"], JOB_LABEL: job["metadata"]["name"]}
        name = pod.rpartition("/")[2]
        self._server.put(pod, {"metadata": {"name": name, "labels": labels, "annotations": {INDEX_ANNOTATION: index}}, "status": {}})
        (container,) = template["spec"]["containers"]
        folders = self._mounts(template["spec"], container)
        command = [self._here(word, folders) for word in (*container["command"], *container["args"])]
        command[0] = str(Path(sys.executable).parent / command[0])
        environment = {each["name"]: each["value"] for each in container["env"]} | {"JOB_COMPLETION_INDEX": index}
        # What a pod has no need of: the path to this checkout, and a master that listens on loopback alone.
        ours = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[1]), "LOCUST_MASTER_BIND_HOST": "127.0.0.1"}
        process = subprocess.Popen(
            command, env=environment | ours, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        for stream in (process.stdout, process.stderr):
            reader = threading.Thread(target=self._copy, args=(pod, stream), daemon=True)
            reader.start()
            self._readers.append(reader)
        self.processes[pod] = process

    def _copy(self, pod: str, stream: Any) -> None:
        """Take the output down line by line, as a container runtime does, each pipe by itself."""
        with stream:
            for line in stream:
                self._server.logs.write(pod, line)

    def _mounts(self, spec: Object, container: Object) -> dict[str, str]:
        """Lay out what ConfigMaps hold; the folders in the pod, and those here."""
        folders = {}
        sources = {volume["name"]: volume.get("configMap") for volume in spec["volumes"]}
        for mount in container["volumeMounts"]:
            source = sources[mount["name"]]
            here = self._folder / mount["name"]
            here.mkdir(exist_ok=True)
            folders[mount["mountPath"]] = str(here)
            found = source and self._server.objects.get(self._names.config_map(source["name"]))
            if source and not found:
                assert source.get("optional"), f"a pod would wait for ConfigMap {source['name']}"
            for key, text in ((found or {}).get("binaryData") or {}).items():
                (here / key).write_bytes(base64.b64decode(text))
        return folders

    def _here(self, word: str, folders: Mapping[str, str]) -> str:
        word = MASTER.sub(lambda found: f"127.0.0.1:{self._ports[found[0]]}", word)
        for address, ours in self._addresses.items():
            word = re.sub(rf"{re.escape(address)}(?![\w.-])", ours, word)
        for folder, ours in folders.items():
            word = re.sub(rf"(?<==){re.escape(folder)}(?=/|$)", ours, word)
        return word

    def _tell(self, pod: str, code: int | None) -> None:
        found = self._server.objects.get(pod)
        if found is None:
            return
        state = {"running": {}} if code is None else {"terminated": {"exitCode": code % 256, "reason": "Error" if code else "Completed"}}
        phase = "Running" if code is None else "Failed" if code else "Succeeded"
        found["status"] = {"phase": phase, "containerStatuses": [{"name": "tools", "ready": code is None, "state": state}]}
        if code is not None:
            self._server.logs.end(pod)

    def _clean(self, jobs: set[str]) -> None:
        """End the pods of Jobs that were deleted."""
        for pod, process in self.processes.items():
            found = self._server.objects.get(pod)
            if found is not None and found["metadata"]["labels"][JOB_LABEL] not in jobs:
                _end(process, signal.SIGTERM)
                if process.poll() is not None:
                    self._server.logs.end(pod)
                    del self._server.objects[pod]


def _end(process: subprocess.Popen[bytes], by: signal.Signals) -> None:
    if process.poll() is None:
        os.killpg(process.pid, by)
        if by == signal.SIGKILL:
            process.wait(LIMIT_S)


@contextmanager
def kubelet(server: ApiServer, names: Names, addresses: Mapping[str, str], folder: Path) -> Iterator[Kubelet]:
    """Run the pods of all Jobs until the block ends."""
    running = Kubelet(server, names, addresses, folder)
    running.start()
    try:
        yield running
    finally:
        running.close()
