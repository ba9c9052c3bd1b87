"""``pilotage scenes``."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)

CAPTIONS_NAME = "captions.jsonl"


@app.command()
def scenes(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("runs/scenes"),
    count: Annotated[int, typer.Option(min=1, max=100_000, help="How many.")] = 10,
    seed: Annotated[int, typer.Option(min=0, max=2**16 - 1, help="Seed; the same seed draws the same scenes.")] = 0,
    unseen: Annotated[bool, typer.Option(help="Only combinations of a colour and a thing that training never shows.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the captions as JSON on stdout.")] = False,
) -> None:
    """Draw scenes with one thing each as PNG files, with a caption for each."""
    from PIL import Image

    from optimize.data.scenes.captions import label
    from optimize.data.scenes.render import render
    from optimize.data.scenes.sampling import draw_any
    from optimize.data.scenes.scene import Scene, Thing
    from optimize.data.scenes.suites import colour_pairs

    rng = random.Random(seed)
    pairs = colour_pairs("test" if unseen else None)
    captions = {pair: label(Scene(Thing(*pair, count=1))) for pair in pairs}
    out.mkdir(parents=True, exist_ok=True)
    drawn: list[dict[str, str]] = []
    for at in range(count):
        subject, colour = rng.choice(pairs)
        path = out / f"scene-{at:05d}.png"
        Image.fromarray(render(draw_any(rng, "one", (subject,), colour=colour), rng.getrandbits(48))).save(path)
        drawn.append({"picture": str(path), "caption": captions[subject, colour]})
    (out / CAPTIONS_NAME).write_text("".join(json.dumps(entry) + "\n" for entry in drawn), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({"scenes": drawn, "labels": list(captions.values())}, indent=2))
        return
    typer.echo(f"{count} scenes and {CAPTIONS_NAME} written to {out}")
