"""Which form a body has, and which form of answer the caller takes."""

from __future__ import annotations

from collections.abc import Sequence

from serving.contract.errors import NotAcceptable

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
"""An IPC stream, as registered with IANA."""

OCTETS = "application/octet-stream"


def media_type(value: bytes) -> str:
    """Media type of a ``Content-Type`` header, without parameters, in lower case."""
    return value.partition(b";")[0].strip().lower().decode("latin-1")


def negotiate(accept: bytes | None, offered: Sequence[str]) -> str:
    """Choose the form of an answer by the ``Accept`` header (RFC 9110, section 12.5.1).

    Parameters
    ----------
    offered
        Media types, the preferred one first: it wins ties, and where the header is absent or takes anything.

    Raises
    ------
    NotAcceptable
        The header takes none of them.
    """
    if accept is None or accept == b"*/*":
        return offered[0]
    quality = {}
    for part in accept.decode("latin-1").split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        quality[name.lower()] = _quality(parameters)
    best = max(offered, key=lambda media: _rate(media, quality))  # the first of equals
    if _rate(best, quality) <= 0:
        raise NotAcceptable(f"Accept takes none of {', '.join(offered)}")
    return best


def _rate(media: str, quality: dict[str, float]) -> float:
    for name in (media, f"{media.partition('/')[0]}/*", "*/*"):
        if name in quality:
            return quality[name]
    return 0.0


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
