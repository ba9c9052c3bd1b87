"""Recorded requests: a ``requests.jsonl`` file with one request body a line, sent again byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from loadtests.sources.payloads import Body
from loadtests.sources.rows import Rows
from serving.contract.errors import SettingsError
from serving.contract.fields import FeatureSpec, Part

MAX_RECORDED = 10_000
"""Bodies taken from a file, from its beginning: about 200 MB in memory at 20 kB each."""

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longest line: above any body that a service would take, and it keeps a file that is not JSON lines out of memory."""

_Candidate = dict[str, Any]


class _Recorded(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The outline of a request; whether values fit the fields is for the service to say, and its answer to be counted."""

    candidates: Annotated[list[_Candidate], msgspec.Meta(min_length=1)]
    user: dict[str, Any] = {}
    context: dict[str, Any] = {}
    top_k: Annotated[int, msgspec.Meta(ge=1)] | None = None


_decoder = msgspec.json.Decoder(_Recorded)


def read_recorded(path: Path, *, max_candidates: int) -> tuple[Body, ...]:
    """Read recorded bodies, in the order of the file; empty lines are skipped, at most `MAX_RECORDED` are taken.

    Parameters
    ----------
    path
        The ``.jsonl`` file.
    max_candidates
        Most candidates that the service takes in one request.

    Raises
    ------
    SettingsError
        When the file cannot be read or has no request, or naming the line that is not one.
    """
    bodies: list[Body] = []
    try:
        with path.open("rb") as file:
            number = 0
            while len(bodies) < MAX_RECORDED and (line := file.readline(MAX_LINE_BYTES + 1)):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise SettingsError(f"{path}, line {number}: longer than {MAX_LINE_BYTES} bytes, that is no ranking request")
                if line.strip():
                    bodies.append(_body(line.strip(), f"{path}, line {number}", max_candidates))
    except OSError as error:
        raise SettingsError(f"recorded requests {path} cannot be read: {error}") from error
    if not bodies:
        raise SettingsError(f"{path} holds no request; it needs one request body a line, as POST /v1/rank takes it")
    return tuple(bodies)


def _body(line: bytes, place: str, max_candidates: int) -> Body:
    try:
        request = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{place}: not a ranking request: {error}") from error
    if len(request.candidates) > max_candidates:
        raise SettingsError(f"{place}: {len(request.candidates)} candidates, the service takes at most {max_candidates}")
    ids = [candidate.get("id") for candidate in request.candidates]
    for index, value in enumerate(ids):
        if not isinstance(value, str | int):
            raise SettingsError(f"{place}: candidates[{index}] has the id {value!r}, a string or an integer is needed")
    return Body(data=line, candidates=len(ids), ids=frozenset(ids), top_k=request.top_k)  # type: ignore[arg-type]


def rows_of(body: Body, spec: FeatureSpec) -> Rows:
    """Read a recorded body again, to be written in another form.

    Raises
    ------
    SettingsError
        It has a field that the specification has not: Arrow columns and tensors have no place for it.
    """
    request = _decoder.decode(body.data)
    parts: dict[Part, list[dict[str, Any]]] = {"user": [request.user], "context": [request.context], "candidate": request.candidates}
    for part, rows in parts.items():
        known = {field.name for field in spec.of_part(part)} | ({"id"} if part == "candidate" else set())
        for row in rows:
            if unknown := row.keys() - known:
                raise SettingsError(f"a recorded request has the {part} field {min(unknown)!r}, the model {spec.name!r} has no such field")
    return Rows(request.user, request.context, request.candidates, request.top_k)
