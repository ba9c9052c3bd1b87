"""Structured logs: one JSON object a line on stderr, with what the caller of the logger put into ``extra``."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

LOGGER = "pilotage"

_RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One line a record: ``time`` (UTC, RFC 3339), ``level``, ``logger``, ``message``, the ``extra`` fields, and ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record; a line break inside a value is escaped, so a caller's text cannot forge a line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _RESERVED}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure_logs(level: str = "INFO") -> None:
    """Let the logger `LOGGER` write JSON lines to stderr; called again, it changes the level alone."""
    logger = logging.getLogger(LOGGER)
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
        logger.propagate = False  # BentoML's root handler would write each line again
