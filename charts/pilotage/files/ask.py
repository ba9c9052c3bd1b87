"""What `helm test` asks a release: one capability a call, with the standard library alone.

``python ask.py ADDRESS rank|classify|metrics``; the token, where one is needed, is the first line of the file that TOKEN_FILE names.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import sys
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

TIMEOUT_S = 30


def ask(address: str, path: str, body: dict[str, Any] | None = None) -> bytes:
    """Answer of the service; anything but 2xx ends the test with what it said."""
    headers = {"Content-Type": "application/json"}
    token_file = os.environ.get("TOKEN_FILE")
    if token_file:
        headers["Authorization"] = f"Bearer {Path(token_file).read_text().split()[0]}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data=data, headers=headers)  # noqa: S310 - the chart writes the address
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        sys.exit(f"{path}: HTTP {error.code}: {error.read(2000).decode(errors='replace')}")
    except OSError as error:
        sys.exit(f"{path}: {error}")


def first_model(address: str, family: str) -> dict[str, Any]:
    """The first model of a family that is served."""
    models: list[dict[str, Any]] = json.loads(ask(address, "/v1/models"))["models"]
    for model in models:
        if model["family"] == family:
            return model
    sys.exit(f"no model of the family {family} is served, but {[model['name'] for model in models]}: set tests.…enabled to what is")


def made_up(field: dict[str, Any], number: int) -> object:
    """A value that a field takes."""
    if field["kind"] == "numeric":
        return 0.0  # what is outside a field's bounds is clipped, not refused
    value: object = number if field.get("dtype") == "int64" else str(number)
    return [value] if field.get("max_values", 1) > 1 else value


def rank(address: str) -> str:
    """Three candidates, ranked by probability."""
    fields = first_model(address, "ranking")["features"]["fields"]
    parts: dict[str, list[dict[str, Any]]] = {
        part: [field for field in fields if field["part"] == part] for part in ("user", "context", "candidate")
    }
    body: dict[str, Any] = {part: {field["name"]: made_up(field, 1) for field in parts[part]} for part in ("user", "context")}
    body["candidates"] = [{"id": number, **{field["name"]: made_up(field, number) for field in parts["candidate"]}} for number in (1, 2, 3)]
    ranked = json.loads(ask(address, "/v1/rank", body))["ranking"]
    probabilities = [candidate["probability"] for candidate in ranked]
    if len(ranked) != 3 or probabilities != sorted(probabilities, reverse=True):
        sys.exit(f"/v1/rank answered {ranked}")
    return f"ranked {len(ranked)} candidates"


def classify(address: str) -> str:
    """A red square, by two labels."""
    image = base64.b64encode(png(32, (255, 0, 0))).decode()
    answer = json.loads(ask(address, "/v1/classify", {"images": [image], "labels": ["a red square", "a green circle"]}))
    labels = answer["images"][0]["labels"]
    if len(labels) != 2 or abs(sum(label["probability"] for label in labels) - 1) > 1e-3:
        sys.exit(f"/v1/classify answered {answer}")
    return f"classified as {answer['images'][0]['best']!r}"


def metrics(address: str) -> str:
    """The families of metrics that alerts and dashboards stand on."""
    content = ask(address, "/metrics").decode()
    missing = [name for name in ("pilotage_request_seconds", "pilotage_stage_seconds") if f"# TYPE {name} histogram" not in content]
    if missing:
        sys.exit(f"/metrics lacks {missing}")
    return f"{content.count('# TYPE pilotage_')} metrics"


def png(size: int, colour: tuple[int, int, int]) -> bytes:
    """A square of one colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\0" + bytes(colour) * size) * size
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


if __name__ == "__main__":
    print({"rank": rank, "classify": classify, "metrics": metrics}[sys.argv[2]](sys.argv[1]))
