"""Logs are one JSON object a line, whatever is in them."""

from __future__ import annotations

import io
import json
import logging

from serving.monitoring.logs import JsonLines


def _line(message: str, *arguments: object, exc_info: bool = False, **extra: object) -> dict[str, object]:
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    handler.setFormatter(JsonLines())
    logger = logging.Logger("pilotage")
    logger.addHandler(handler)
    logger.error(message, *arguments, extra=extra, exc_info=exc_info)
    (line,) = sink.getvalue().splitlines()
    document: dict[str, object] = json.loads(line)
    return document


def test_a_line_has_what_was_given_and_nothing_of_the_logger() -> None:
    line = _line("ready after %d", 3, model="tiny", threads=2)
    assert line.pop("time").endswith("+00:00")  # type: ignore[attr-defined]
    assert line == {"level": "ERROR", "logger": "pilotage", "message": "ready after 3", "model": "tiny", "threads": 2}


def test_a_line_break_or_an_object_cannot_forge_a_line() -> None:
    line = _line('a\n{"level":"INFO"}', request_id="x\r\ny", error_of=ValueError("z"))
    assert line["message"] == 'a\n{"level":"INFO"}'
    assert (line["request_id"], line["error_of"]) == ("x\r\ny", "z")


def test_an_exception_keeps_its_trace() -> None:
    try:
        raise ValueError("cause")
    except ValueError:
        line = _line("failed", exc_info=True)
    assert "ValueError: cause" in str(line["error"])
