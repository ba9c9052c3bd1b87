"""The optional bearer token (RFC 6750): known tokens come from a file, which a Secret keeps up to date."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Iterable
from pathlib import Path

from serving.contract.errors import SettingsError

log = logging.getLogger("pilotage")

LOOK_AGAIN_S = 5.0
"""How soon a rotated token counts; the kubelet itself takes up to a minute to bring one."""

MIN_LENGTH = 16
MAX_TOKENS = 64
MAX_FILE_BYTES = 64 * 1024


class TokenGate:
    """Lets those in who show a token of the file.

    Parameters
    ----------
    path
        One token a line, blank lines left out; two of them let callers change over without a gap.

    Raises
    ------
    SettingsError
        The file cannot be read or holds no usable token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tokens = read_tokens(path)
        self._looked_s = time.monotonic()

    def allows(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether one ``Authorization`` header is ``Bearer`` with a known token, compared in constant time."""
        if time.monotonic() - self._looked_s > LOOK_AGAIN_S:
            self._look_again()
        shown = [value for name, value in headers if name == b"authorization"]
        if len(shown) != 1:
            return False
        scheme, _, token = shown[0].partition(b" ")
        token = token.strip()
        known = False
        for candidate in self._tokens:  # all of them, whichever fits
            known |= hmac.compare_digest(candidate, token)
        return known and scheme.lower() == b"bearer"

    def _look_again(self) -> None:
        self._looked_s = time.monotonic()
        try:
            self._tokens = read_tokens(self._path)
        except SettingsError as error:
            log.error("the tokens that were read before go on: %s", error)


def read_tokens(path: Path) -> tuple[bytes, ...]:
    """Read the tokens.

    Raises
    ------
    SettingsError
        The file cannot be read, is too large, or has no token, too many or a short one. No token is part of the message.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"PILOTAGE_TOKEN_FILE={str(path)!r} cannot be read: {error.strerror}") from error
    tokens = tuple(line.strip() for line in content.splitlines() if line.strip())
    if len(content) > MAX_FILE_BYTES or not 1 <= len(tokens) <= MAX_TOKENS:
        raise SettingsError(f"PILOTAGE_TOKEN_FILE={str(path)!r} must hold 1 to {MAX_TOKENS} tokens, one a line, it has {len(tokens)}")
    for number, token in enumerate(tokens, 1):
        if len(token) < MIN_LENGTH or not all(33 <= byte < 127 for byte in token):
            raise SettingsError(
                f"PILOTAGE_TOKEN_FILE={str(path)!r}: token {number} must be at least {MIN_LENGTH} printable characters without spaces"
            )
    return tokens
