"""Numbers for people: three digits, no more than they need."""

from __future__ import annotations


def number(value: float) -> str:
    """``1,234``, ``12.3``, ``0.00123``."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return f"{value:.6f}".rstrip("0") if "e" in text else text


def percent(value: float) -> str:
    """``0.12 %``."""
    return f"{number(value)} %"


def milliseconds(value: float) -> str:
    """``12.3 ms``."""
    return f"{number(value)} ms"
