"""What is left of a rollout: why it ended as it did, for people; ``report.json`` and ``report.html`` with the whole story."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from k8s.rollout.arms import CANARIES, Weights
from k8s.rollout.phases import Phase
from k8s.rollout.record import Entry, Judged, Record
from serving.contract.files import write_bytes

REPORT_SCHEMA_VERSION = 1
JSON_NAME, PAGE_NAME = "report.json", "report.html"
TEMPLATE = "report_template.html"

DECIDING = ("started", "note", "phase", "extended", "dropped", "withdrawn", "asked", "drift")
"""Lines of the timeline that say why; the others say what was done."""

CHART_WIDTH, CHART_HEIGHT = 840, 160


@dataclass(frozen=True)
class Span:
    """A time in which the weights did not change.

    Attributes
    ----------
    from_s, to_s
        Seconds since the rollout began.
    """

    from_s: float
    to_s: float
    weights: Weights


def spans(record: Record) -> list[Span]:
    """Weights over time, as the engine held them to be in force."""
    last_s = max([record.ended_s or 0.0, record.started_s, *(entry.at_s for entry in record.timeline)])
    changes: list[tuple[float, Weights]] = [(record.started_s, Weights())]
    for entry in record.timeline:
        if entry.weights != changes[-1][1]:
            changes.append((entry.at_s, entry.weights))
    ends = [at_s for at_s, _ in changes[1:]] + [last_s]
    return [
        Span(at_s - record.started_s, end_s - record.started_s, weights)
        for (at_s, weights), end_s in zip(changes, ends, strict=True)
        if end_s > at_s or len(changes) == 1
    ]


def exposure_pct_s(record: Record) -> float:
    """Canaries' share of live traffic, summed over time: per cent times seconds. One per cent for a minute is 60."""
    return sum(span.weights.tried * (span.to_s - span.from_s) for span in spans(record))


def decision(record: Record) -> Entry | None:
    """Return the line of the timeline in which the outcome was decided; None where it is open."""
    phases = [entry for entry in record.timeline if entry.what == "phase"]
    if record.outcome == "promoted":  # what settles it is that stable runs the release; what decided it came before
        deciding = [entry for entry in phases if entry.phase is Phase.PROMOTING]
    else:
        deciding = [entry for entry in phases if record.why and entry.detail.endswith(f": {record.why}")]
    return deciding[0] if deciding else None


def decided_by(record: Record) -> str:
    """Who or what decided: the judge, the engine (health, time-outs), or a person by name."""
    decided = decision(record)
    return decided.by if decided else "nobody yet"


def summary(record: Record) -> list[str]:
    """Say in two or three sentences what happened and why."""
    release, old = record.title, record.old_release.name
    took_s = (record.ended_s or max(entry.at_s for entry in record.timeline)) - record.started_s if record.timeline else 0.0
    state = record.outcome.replace("_", " ") if record.outcome else f"not over: {record.phase}"
    lines = [f"{release} over {old}, plan {record.plan.name}: {state}, after {took_s:.0f} s."]
    decided = decision(record)
    if decided is not None:
        why = decided.detail.partition(": ")[2].removeprefix(f"step {decided.step}: ")  # after "phase → phase"
        lines.append(f"Decided by {decided.by}, at step {decided.step}: {why}")
    lines += [f"{record.release_of(each.arm).name} was dropped ({each.conclusion}): {each.why}" for each in record.dropped]
    highest = max((span.weights.tried for span in spans(record)), default=0)
    whose = "The canary" if len(record.releases) == 1 else "All canaries together"
    lines.append(
        "No live request was sent to a canary."
        if not highest
        else f"{whose} had at most {highest} % of live traffic; in all as much as {exposure_pct_s(record) / 100:.1f} s of all of it."
    )
    return lines


def explain(record: Record) -> list[str]:
    """Say what happened and why, with the evidence."""
    lines = summary(record)
    for judged in record.verdicts:
        whose = f"{judged.release}, " if len(record.releases) > 1 else ""
        lines.append(f"  {whose}{judged.step}, {judged.source}, attempt {judged.attempt}: {judged.verdict['sentence']}")
        lines += [f"    {_mark(finding['status'])} {finding['objective']}: {finding['sentence']}" for finding in judged.verdict["findings"]]
    asked = [entry for entry in record.timeline if entry.what == "asked"]
    lines += [f"  {entry.by} asked: {entry.detail}" for entry in asked]
    return lines


def history_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row a rollout, the newest first."""
    return [
        {
            "id": record.id,
            "release": record.title,
            "over": record.old_release.name,
            "plan": record.plan.name,
            "started": _utc(record.started_s),
            "took_s": None if record.ended_s is None else round(record.ended_s - record.started_s, 1),
            "outcome": record.outcome or str(record.phase),
            "decided_by": decided_by(record),
            "why": record.why,
        }
        for record in reversed(records)
    ]


def as_document(record: Record) -> dict[str, Any]:
    """``report.json``: the record, and what follows from it."""
    return {
        "schema_version": REPORT_SCHEMA_VERSION,
        **history_rows([record])[0],
        "explanation": explain(record),
        "exposure_pct_s": round(exposure_pct_s(record), 3),
        "weights": [asdict(span) for span in spans(record)],
        "record": json.loads(record.to_json()),
    }


def write_report(record: Record, folder: Path) -> Path:
    """Write ``report.json`` and ``report.html``; return the path of the page."""
    write_bytes(folder / JSON_NAME, (json.dumps(as_document(record), indent=1) + "\n").encode())
    write_bytes(folder / PAGE_NAME, render_page(record).encode())
    return folder / PAGE_NAME


def render_page(record: Record) -> str:
    """Render the page; all that came from elsewhere (names, logs, people's reasons) is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(TEMPLATE).render(
        record=record,
        row=history_rows([record])[0],
        summary=summary(record),
        chart=chart(record),
        deciding=[_line(record, entry) for entry in record.timeline if entry.what in DECIDING],
        timeline=[_line(record, entry) for entry in record.timeline],
        verdicts=[_evidence(record, judged) for judged in record.verdicts],
        width=CHART_WIDTH,
        height=CHART_HEIGHT,
    )


def chart(record: Record) -> list[dict[str, Any]]:
    """Rectangles of the chart of weights over time: one a span and arm, stacked from the bottom, canary first."""
    drawn = spans(record)
    whole_s = max(drawn[-1].to_s if drawn else 0.0, 1e-9)
    rectangles = []
    for span in drawn:
        bottom = 0.0
        for arm in (*CANARIES, "baseline", "stable"):
            share = span.weights.of(arm)
            height = CHART_HEIGHT * share / 100
            if share:
                rectangles.append(
                    {
                        "arm": arm,
                        "x": CHART_WIDTH * span.from_s / whole_s,
                        "y": CHART_HEIGHT - bottom - height,
                        "width": CHART_WIDTH * (span.to_s - span.from_s) / whole_s,
                        "height": height,
                        "title": f"{arm} {share} %, from {span.from_s:.0f} s to {span.to_s:.0f} s",
                    }
                )
            bottom += height
    return rectangles


def _line(record: Record, entry: Entry) -> dict[str, str]:
    return {
        "at": f"{entry.at_s - record.started_s:.1f} s",
        "phase": str(entry.phase),
        "what": entry.what,
        "detail": entry.detail,
        "by": entry.by,
        "weights": "/".join(str(entry.weights.of(arm)) for arm in ("stable", "baseline", *record.arms)),
    }


def _evidence(record: Record, judged: Judged) -> dict[str, Any]:
    step = judged.step if len(record.releases) == 1 else f"{judged.step}, {judged.release}"
    return {"at": f"{judged.at_s - record.started_s:.1f} s", "step": step, "source": judged.source, "verdict": judged.verdict}


def _mark(status: str) -> str:
    return {"pass": "✓", "fail": "✗"}.get(status, "?")


def _utc(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
