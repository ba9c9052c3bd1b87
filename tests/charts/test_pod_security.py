"""Every pod of every example keeps the restricted Pod Security Standard, and the stricter rules of this chart.

The standard's controls, as `Kubernetes' own admission checks them <https://kubernetes.io/docs/concepts/security/pod-security-standards/>`_.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.charts.rendering import EXAMPLES, MINIMAL, Object, Rendering, changed, containers, pod_templates, render, render_example

# `image` counts since 1.33: kubernetes/kubernetes#130394.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"}
SECCOMP = {"RuntimeDefault", "Localhost"}
SECRET_NAME = re.compile("(?i)password|passwd|secret|token|api_?key|access_?key|credential")


def violations(template: Object) -> Iterator[str]:
    """What the restricted standard forbids in a pod template, baseline included."""
    spec = template["spec"]
    pod = spec.get("securityContext", {})
    yield from (host for host in ("hostNetwork", "hostPID", "hostIPC") if spec.get(host))
    for volume in spec.get("volumes", []):
        kinds = volume.keys() - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume {volume['name']} is {', '.join(kinds)}"
    if pod.get("sysctls"):
        yield "sysctls"
    for container in containers(template):
        forbidden = _forbidden(container, {**pod, **container.get("securityContext", {})})
        yield from (f"{container['name']}: {what}" for what, found in forbidden.items() if found)


def _forbidden(container: Object, security: Object) -> dict[str, bool]:
    """What the standard looks at in a container, and whether it forbids what is there; `security` is the container's laid over the pod's."""
    capabilities = security.get("capabilities", {})
    # A host here is a way around network policies; since 1.34.
    probes = [container.get(probe, {}) for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    return {
        "privileged": bool(security.get("privileged")),
        "allowPrivilegeEscalation": security.get("allowPrivilegeEscalation") is not False,
        "runAsNonRoot": security.get("runAsNonRoot") is not True,
        "runAsUser 0": security.get("runAsUser") == 0,
        "seccompProfile": security.get("seccompProfile", {}).get("type") not in SECCOMP,
        "capabilities dropped": "ALL" not in capabilities.get("drop", []),
        "capabilities added": not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
        "procMount": security.get("procMount", "Default") != "Default",
        "AppArmor, SELinux or Windows options": not security.keys().isdisjoint({"seLinuxOptions", "windowsOptions"})
        or security.get("appArmorProfile", {}).get("type") == "Unconfined",
        "hostPort": any("hostPort" in port for port in container.get("ports", [])),
        "a probe of another host": any("host" in action for probe in probes for action in probe.values() if isinstance(action, dict)),
    }


example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)


def _pods(rendering: Rendering) -> list[tuple[str, Object]]:
    found = list(pod_templates(rendering.everything))
    assert found
    return found


@example
def test_every_pod_keeps_the_restricted_standard(example: Path) -> None:
    assert {title: told for title, template in _pods(render_example(example)) if (told := list(violations(template)))} == {}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}, "volume host is hostPath"),
        ({"securityContext": {"runAsNonRoot": True}}, "service: seccompProfile"),
        ({"initContainers": [{"name": "first", "securityContext": {"privileged": True}}]}, "first: privileged"),
    ],
)
def test_what_the_standard_forbids_is_told(change: Object, told: str) -> None:
    template = render(MINIMAL).named("Deployment", "ranker-pilotage-stable")["spec"]["template"]
    assert list(violations(template)) == []
    assert told in list(violations({**template, "spec": {**template["spec"], **change}}))


@example
def test_every_container_has_a_read_only_root_and_bounded_memory(example: Path) -> None:
    for title, template in _pods(render_example(example)):
        for container in containers(template):
            where = f"{title}: {container['name']}"
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, where
            assert container["resources"]["limits"]["memory"], where
            assert container["resources"]["requests"]["cpu"], where
        for volume in template["spec"].get("volumes", []):
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], f"{title}: {volume['name']}"


@example
def test_no_pod_has_a_token_of_the_cluster_but_those_that_run_the_rollout(example: Path) -> None:
    for title, template in _pods(render_example(example)):
        component = template["metadata"].get("labels", {}).get("app.kubernetes.io/component")
        if template["spec"].get("automountServiceAccountToken") is not False:
            assert component == "rollout", title


@example
def test_every_image_is_pinned_by_its_digest(example: Path) -> None:
    if example.stem.startswith("kind"):  # an image that was loaded into a node by hand has a tag alone
        pytest.skip("a cluster on one's own machine has no registry to take a digest from")
    for title, template in _pods(render_example(example)):
        for container in containers(template):
            assert re.search(r"@sha256:[0-9a-f]{64}$", container["image"]), f"{title}: {container['name']}"


@example
def test_secrets_come_by_reference(example: Path) -> None:
    rendering = render_example(example)
    assert rendering.of_kind("Secret") == []
    for title, template in _pods(rendering):
        for container in containers(template):
            for variable in container.get("env", []):
                path = variable.get("value", "").startswith("/")  # PILOTAGE_TOKEN_FILE names a file
                assert not SECRET_NAME.search(variable["name"]) or "valueFrom" in variable or path, f"{title}: {variable['name']}"


def test_rendering_twice_gives_the_same() -> None:
    values = changed(MINIMAL, {"canary.enabled": True, "baseline.enabled": True})
    assert render(values) == render(values)
