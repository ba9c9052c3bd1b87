"""Values that contradict each other are refused, each with a sentence that says what to do."""

from __future__ import annotations

import pytest

from tests.charts.rendering import MINIMAL, Values, changed, refusal, render
from tests.charts.test_routes import ARMS, GATEWAY

TOOLS: Values = {"tools.image": {"repository": "registry.example/tools", "digest": f"sha256:{'1' * 64}"}}
ARGO: Values = {**GATEWAY, "argoRollouts.enabled": True, **TOOLS}
GATE: Values = {**TOOLS, "gate.enabled": True, "networkPolicy.gate": [{"namespaceSelector": {}}]}
FLAGGER: Values = {**GATE, "gate.canary": "http://a-canary", "gate.baseline": "http://a-primary"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image.repository": ""}, "image.repository is needed"),
        ({"image.digest": ""}, "image.digest is needed"),
        ({"bundles": [{"source": "image"}]}, 'bundles[0] comes from image and has no path: see "Bundles"'),
        ({"bundles": [{"source": "download", "name": "a", "url": "https://a/b"}]}, "bundles[0] comes from download and has no sha256"),
        ({"canary.bundles": [{"source": "claim", "name": "a"}]}, "canary.bundles[0] comes from claim and has no claimName"),
        (
            {"bundles": [{"source": "claim", "name": "a", "claimName": "x"}, {"source": "claim", "name": "a", "claimName": "y"}]},
            "bundles[1] is called a, as one before it",
        ),
        ({"env": [{"name": "HOME", "value": "/root"}]}, "env has HOME, which stands there twice, or is the chart's to set"),
        ({"canary.env": 2 * [{"name": "A", "value": "1"}]}, "canary.env has A, which stands there twice"),
        ({"traffic.weights.stable": 90}, "traffic.weights add up to 90, they must to 100"),
        ({"traffic.weights": {"stable": 90, "canary": 10}}, "traffic.weights.canary is 10, but canary.enabled is false"),
        ({"rollout.enabled": True, "canary.enabled": True}, "canary.enabled with rollout.enabled"),
        ({**ARGO, "rollout.enabled": True}, "two engines would fight over the weights"),
        ({**GATEWAY, "rollout.enabled": True, "traffic.mirror.enabled": True}, "the plan of the rollout says what is mirrored"),
        ({"rollout.enabled": True, "service.port": 8080}, "the rollout loads the arms' Services at port 80"),
        ({"rollout.job.enabled": True}, "rollout.job.enabled needs rollout.enabled"),
        ({"rollout.enabled": True, "rollout.job.enabled": True, **TOOLS}, "rollout.job.enabled needs traffic.httpRoute.enabled"),
        (
            {"rollout.job.volumes": [{"name": "tmp", "emptyDir": {}}]},
            "rollout.job.volumes has tmp, which stands there twice, or is the chart's",
        ),
        ({"rollout.job.volumes": 2 * [{"name": "a", "emptyDir": {}}]}, "rollout.job.volumes has a, which stands there twice"),
        ({"rollout.job.volumeMounts": [{"name": "a", "mountPath": "/a"}]}, "names a, which is none of rollout.job.volumes"),
        (
            {"rollout.job.volumes": [{"name": "a", "emptyDir": {}}], "rollout.job.volumeMounts": [{"name": "a", "mountPath": "/rollout/"}]},
            "puts a at /rollout/, where there is another one, or the chart's own",
        ),
        (
            {"rollout.job.volumes": [{"name": "a", "emptyDir": {}}], "rollout.job.volumeMounts": 2 * [{"name": "a", "mountPath": "/a"}]},
            "puts a at /a, where there is another one",
        ),
        ({"rolling.maxSurge": 0}, "rolling.maxSurge and rolling.maxUnavailable are both 0"),
        (
            {**GATEWAY, "rollout.enabled": True, "rollout.job.enabled": True},
            "rollout.job.enabled needs tools.image.repository",
        ),
        ({**GATEWAY, "traffic.mirror.enabled": True}, "there is nobody to copy requests to"),
        (
            {"traffic.mirror.enabled": True, "traffic.mirror.serviceName": "shadow"},
            "traffic.mirror.enabled needs traffic.httpRoute.enabled",
        ),
        ({"traffic.cookie.set": True}, "traffic.cookie.set needs traffic.cookie.enabled"),
        ({"traffic.httpRoute.enabled": True}, "traffic.httpRoute.enabled needs traffic.httpRoute.parentRefs"),
        ({**GATEWAY, "networkPolicy.gateway": []}, "networkPolicy.gateway is needed"),
        ({"traffic.ingress.enabled": True}, "traffic.ingress.enabled needs traffic.ingress.hosts"),
        ({**ARMS, "traffic.ingress.enabled": True, "traffic.ingress.hosts": ["a"]}, "ingress-nginx knows one canary beside stable"),
        ({"autoscaling.hpa.enabled": True, "autoscaling.keda.enabled": True}, "two would fight over the replicas"),
        ({"autoscaling.hpa.enabled": True, "autoscaling.minReplicas": 11}, "autoscaling.minReplicas is 11, above maxReplicas 10"),
        ({"autoscaling.hpa.enabled": True, "autoscaling.cpu.enabled": False}, "autoscaling has nothing to scale by"),
        ({"autoscaling.hpa.enabled": True, "resources": {"requests": {"cpu": None}}}, "autoscaling.cpu needs resources.requests.cpu"),
        ({"autoscaling.keda.enabled": True, "autoscaling.queue.enabled": True}, "needs autoscaling.keda.prometheusAddress"),
        ({"tracing.endpoint": "http://collector:4318"}, "tracing.endpoint needs settings.traceSampleRate above 0"),
        ({"settings.traceSampleRate": 0.1}, "settings.traceSampleRate above 0 needs tracing.endpoint"),
        ({"tests.latency.enabled": True}, "tests.latency.enabled needs tools.image.repository"),
        (
            {"tests.latency.enabled": True, "tools.image": {"repository": "registry.example/tools"}},
            "tests.latency.enabled needs tools.image",
        ),
        ({**ARGO, "traffic.httpRoute.enabled": False}, "argoRollouts.enabled needs traffic.httpRoute.enabled"),
        ({**ARGO, "argoRollouts.analysis.enabled": False}, "argoRollouts.analysis.enabled is false"),
        ({**ARGO, "tools.image": {}}, "argoRollouts.analysis.enabled needs tools.image.repository"),
        ({**ARGO, "canary.enabled": True}, "canary.enabled with rollout.enabled or argoRollouts.enabled"),
        ({**ARGO, "argoRollouts.steps": [{"analysis": "judge"}, {"setWeight": 10}]}, "stable would be compared with itself"),
        ({**ARGO, "argoRollouts.analysis.by": "gate"}, "but gate.enabled is false"),
        ({**ARGO, **GATE, "argoRollouts.analysis": {"by": "gate", "command": ["true"]}}, "argoRollouts.analysis.command is for"),
        ({**ARGO, **FLAGGER}, "the gate compares the Services that the Rollout manages"),
        ({**GATE, "tools.image": {}, "canary.enabled": True}, "gate.enabled needs tools.image.repository"),
        (GATE, "gate.enabled needs gate.canary and gate.baseline"),
        ({**GATE, "gate.canary": "http://a-canary"}, "give both, or none"),
        ({**GATEWAY, **GATE, "rollout.enabled": True}, "gate.enabled with rollout.enabled"),
        ({**FLAGGER, "networkPolicy.gate": []}, "networkPolicy.gate is needed with gate.enabled"),
        ({**FLAGGER, "auth.secretName": "tokens"}, "give a plan of your own, whose load profile names token_file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contradictions_are_refused(changes: Values, told: str) -> None:
    assert told in refusal(changed(MINIMAL, changes))


def test_what_is_refused_alone_is_taken_with_what_it_needs() -> None:
    for changes in (ARGO, {**TOOLS, "tests.latency.enabled": True}, {**GATEWAY, **ARMS, "traffic.mirror.enabled": True}, FLAGGER):
        assert render(changed(MINIMAL, changes)).objects
