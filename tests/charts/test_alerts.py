"""What alerts fire on, by Prometheus' own unit tests of rules: ``promtool`` of Debian's package, which `make promtool` brings."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import MINIMAL, ROOT, changed, render

HERE = 'namespace="models", job="ranker-pilotage"'


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool") or shutil.which(ROOT / ".venv" / "bin" / "promtool")
    if found is None:
        pytest.skip("promtool is not installed: `make promtool` takes it out of Debian's package prometheus")
    return found


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rule = render(changed(MINIMAL, {"monitoring.rules.enabled": True})).one("PrometheusRule")
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": rule["spec"]["groups"]}))
    return path


@dataclass(frozen=True)
class Case:
    """Series that are sampled, and rules that are evaluated, every `interval`, and what fires at `at`: alerts with their severities.

    An hour is evaluated minute by minute, many hours more coarsely, which keeps all of them within a few seconds.
    """

    series: dict[str, str]
    at: str
    fires: tuple[tuple[str, str], ...]
    interval: str = "1m"


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    own = {"model": "ranker", "version": "1", "arm": "stable", "pod": "a", **labels}
    labels_of = ", ".join(f'{key}="{value}"' for key, value in own.items())
    return {f"{name}{{{HERE}, {labels_of}}}": values}


def requests(status: str, values: str, **labels: str) -> dict[str, str]:
    return series("pilotage_request_seconds_count", values, status=status, **labels)


def answered(values: str, within: str = "", **labels: str) -> dict[str, str]:
    """Answers 200, all of them fast, or only as many as `within` says."""
    bucket = series("pilotage_request_seconds_bucket", within or values, status="200", le="0.05", **labels)
    return {**requests("200", values, **labels), **bucket, f'up{{{HERE}, pod="a"}}': "1x300"}


def deployment(name: str, values: str, labels: str = "") -> dict[str, str]:
    return {f'{name}{{namespace="models", deployment="ranker-pilotage-stable"{labels}}}': values}


SOUND = answered("0+600x300")
PAGE, TICKET = "page", "ticket"

CASES = {
    "a sound service": Case(SOUND, "8h", (), interval="5m"),
    # 5 of 1,000 are 5 times the budget of 0.1 %: neither page, both tickets as soon as they have lasted.
    "a slow burn": Case({**answered("0+995x300"), **requests("500", "0+5x300")}, "10h", (("PilotageErrorBudgetBurn", TICKET),) * 2, interval="5m"),
    "an outage": Case(
        {**answered("0+900x120"), **requests("500", "0+100x120")}, "25m", (("PilotageErrorBudgetBurn", PAGE),) * 2
    ),
    "an outage that is over": Case({**answered("0+900x60 54900+1000x120"), **requests("500", "0+100x60 6000x120")}, "100m", (("PilotageErrorBudgetBurn", TICKET),)),
    "answers that come too late": Case(answered("0+1000x300", within="0+700x300"), "25m", (("PilotageErrorBudgetBurn", PAGE),) * 2),
    "few requests that fail": Case({**answered("0x120"), **requests("500", "0+1x50 50x70")}, "30m", ()),
    "callers' mistakes": Case({**answered("0+900x120"), **requests("422", "0+100x120")}, "35m", (("PilotageInputsRefused", TICKET),)),
    "no pod": Case({f'up{{{HERE}, pod="a"}}': "0x60"}, "10m", (("PilotageDown", PAGE),)),
    "no target": Case({'up{job="another"}': "1x60"}, "10m", (("PilotageDown", PAGE),)),
    "one pod of two": Case({f'up{{{HERE}, pod="a"}}': "0x60", f'up{{{HERE}, pod="b"}}': "1x60"}, "10m", ()),
    "overload": Case({**SOUND, **series("pilotage_shed_total", "0+60x120", reason="overload")}, "30m", (("PilotageShedding", PAGE),)),
    "callers that go": Case({**SOUND, **series("pilotage_shed_total", "0+60x120", reason="gone")}, "30m", ()),
    "a queue": Case(
        {**SOUND, **series("pilotage_request_seconds_sum", "0+10x120", status="200"), **series("pilotage_stage_seconds_sum", "0+6x120", stage="queue")},
        "40m", (("PilotageQueueing", TICKET),),
    ),
    "twice and a half as many candidates": Case(
        {
            **series("pilotage_request_candidates_count", "0+100x400"), **series("pilotage_request_candidates_sum", "0+10000x190 1900000+25000x210"),
            f'up{{{HERE}, pod="a"}}': "1x400",
        },
        "200h", (("PilotageInputDrift", TICKET),), "1h",
    ),
    "as many candidates as a week ago": Case(
        {
            **series("pilotage_request_candidates_count", "0+100x400"), **series("pilotage_request_candidates_sum", "0+10000x190 1900000+15000x210"),
            f'up{{{HERE}, pod="a"}}': "1x400",
        },
        "200h", (), "1h",
    ),
    "the first bundle that is refused": Case({**SOUND, **series("pilotage_model_loads_total", "_x30 1x90", outcome="refused")}, "35m", (("PilotageBundleRefused", TICKET),)),
    "another bundle that is refused": Case({**SOUND, **series("pilotage_model_loads_total", "1x30 2x90", outcome="refused")}, "35m", (("PilotageBundleRefused", TICKET),)),
    "a bundle that was refused twenty minutes ago": Case({**SOUND, **series("pilotage_model_loads_total", "_x30 1x90", outcome="refused")}, "50m", ()),
    "two versions for seven hours": Case({**SOUND, **answered("0+60x300", version="2", arm="canary")}, "7h", (("PilotageRolloutStuck", TICKET),), interval="5m"),
    "two versions for five hours": Case({**SOUND, **answered("0+60x300", version="2", arm="canary")}, "5h", (), interval="5m"),
    "two versions, one after the other": Case({**answered("0+600x60 36000x300"), **answered("_x60 0+600x300", version="2")}, "9h", (), interval="5m"),
    "an update that is stuck": Case(
        {**SOUND, **deployment("kube_deployment_status_condition", "0x10 1x60", ', condition="Progressing", status="false"')}, "20m", (("PilotageUpdateStuck", PAGE),)
    ),
    "pods that are missing": Case(
        {**SOUND, **deployment("kube_deployment_status_replicas_available", "1x60"), **deployment("kube_deployment_spec_replicas", "2x60")}, "20m", (("PilotagePodsMissing", TICKET),)
    ),
    "a pod that restarts": Case(
        {**SOUND, 'kube_pod_container_status_restarts_total{namespace="models", pod="ranker-pilotage-stable-7d-x", container="service"}': "0+0.1x120"},
        "35m", (("PilotagePodsRestart", TICKET),),
    ),
    "a scaler at its end": Case(
        {
            **SOUND,
            'kube_horizontalpodautoscaler_status_current_replicas{namespace="models", horizontalpodautoscaler="ranker-pilotage"}': "8x120",
            'kube_horizontalpodautoscaler_spec_max_replicas{namespace="models", horizontalpodautoscaler="ranker-pilotage"}': "8x120",
        },
        "35m", (("PilotageScaledOut", TICKET),),
    ),
}  # fmt: skip


def _run(promtool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([promtool, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_prometheus_takes_the_rules(promtool: str, rules: Path) -> None:
    ran = _run(promtool, "check", "rules", rules)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_alerts_fire_on_what_they_are_for_and_on_nothing_else(promtool: str, rules: Path, tmp_path: Path) -> None:
    # All labels and annotations of an expected alert would have to be told; ALERTS has the firing ones as series, by name and severity.
    firing = 'count by (alertname, severity) (ALERTS{alertstate="firing"})'
    files: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for title, case in CASES.items():
        expected = [
            {"labels": f'{{alertname="{name}", severity="{severity}"}}', "value": n} for (name, severity), n in Counter(case.fires).items()
        ]
        files[case.interval].append(
            {
                "name": title,
                "interval": case.interval,
                "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
                "promql_expr_test": [{"expr": firing, "eval_time": case.at, "exp_samples": expected}],
            }
        )
    for interval, tests in files.items():
        path = tmp_path / f"every-{interval}.yaml"
        path.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": interval, "tests": tests}))
        ran = _run(promtool, "test", "rules", path)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_alert_has_a_case_that_it_fires_in(rules: Path) -> None:
    rendered = {rule["alert"] for group in yaml.safe_load(rules.read_text())["groups"] for rule in group["rules"] if "alert" in rule}
    assert rendered == {name for case in CASES.values() for name, _ in case.fires}
