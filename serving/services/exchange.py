"""One HTTP exchange: what a route needs of a request, bounds on its body, and what its headers say."""

from __future__ import annotations

import random
import re
import secrets
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

from serving.contract.errors import MalformedRequest, Overloaded, RequestTooLarge, UnsupportedMedia

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Mapping[bytes, bytes]
"""Names in lower case; of repeated headers the last."""

Header = tuple[bytes, bytes]

REQUEST_ID_HEADER = b"x-request-id"
DEADLINE_HEADERS = (b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms")
"""Milliseconds that the caller will wait from now on. The second is what Envoy tells its upstreams by itself."""

MAX_TIMEOUT_MS = 3_600_000

MAX_BUFFERED_BODIES = 64
"""Of requests to rank: with the default bound they are 256 MiB together."""

_draw = random.Random(secrets.randbits(128))  # noqa: S311 - ids must differ, not be secret, and asking the kernel for each costs microseconds
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_WINDOW_OF_GZIP = 16 + zlib.MAX_WBITS
_WINDOW_OF_ZLIB = zlib.MAX_WBITS


class AsgiApp(Protocol):
    """An ASGI application."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        ...


class Call(Protocol):
    """One request to a model, its headers read, as a route sees it; where it came from is the implementation's concern.

    Attributes
    ----------
    method, path, query
        As sent; the path is percent-decoded, the query, without its question mark, is not.
    began_s
        When its headers were there, on `time.perf_counter`'s clock.
    """

    method: str
    path: str
    query: bytes
    headers: Headers
    began_s: float

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        ...

    def gone(self) -> bool:
        """Whether the caller has closed the connection."""
        ...

    def reply(self, status: int, content: bytes, headers: Sequence[Header]) -> None:
        """Answer; called once. Nothing is sent to a caller who has left."""
        ...


class BodyBounds:
    """Bounds of bodies, each and all together.

    Parameters
    ----------
    max_bytes
        Of one body, as sent and after decompression.
    together
        Bodies of that size that may be in memory at once; beyond it requests are refused before they are read.
    advice
        What a caller whose body is too large may do.
    """

    def __init__(self, max_bytes: int, together: int = MAX_BUFFERED_BODIES, advice: str = "send fewer candidates a request") -> None:
        self.max_bytes = max_bytes
        self._advice = advice
        self._all_bytes = self._budget_bytes = max_bytes * together

    def take(self, headers: Headers) -> int:
        """Reserve room for the body that these headers announce; what is returned must be given back.

        Raises
        ------
        RequestTooLarge
            It is over the bound.
        Overloaded
            Too many bodies are being read.
        """
        length = headers.get(b"content-length")
        size_bytes = int(length) if length is not None and length.isdigit() else self.max_bytes
        if size_bytes > self.max_bytes:
            raise RequestTooLarge(f"the body has {size_bytes} bytes, the limit is {self.max_bytes}; {self._advice}")
        if size_bytes > self._budget_bytes:
            raise Overloaded(f"bodies of {self._all_bytes} bytes are being read already")
        self._budget_bytes -= size_bytes
        return size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Release what `take` reserved."""
        self._budget_bytes += size_bytes

    def require(self, size_bytes: int) -> None:
        """Check what has come so far of a body that did not announce its length.

        Raises
        ------
        RequestTooLarge
            It is over the bound.
        """
        if size_bytes > self.max_bytes:
            raise RequestTooLarge(f"the body is over the limit of {self.max_bytes} bytes; {self._advice}")

    def plain(self, headers: Headers, body: bytes) -> bytes:
        """Decompress a body if need be.

        Raises
        ------
        RequestTooLarge
            It would be over the bound when decompressed.
        UnsupportedMedia
            A content encoding other than ``gzip``, ``deflate`` and ``identity``.
        MalformedRequest
            It is damaged.
        """
        encoding = headers.get(b"content-encoding")
        return body if encoding is None else self._decompress(body, encoding.strip().lower())

    def _decompress(self, body: bytes, encoding: bytes) -> bytes:
        if encoding == b"identity":
            return body
        windows = {b"gzip": _WINDOW_OF_GZIP, b"x-gzip": _WINDOW_OF_GZIP, b"deflate": _WINDOW_OF_ZLIB}
        if encoding not in windows:
            raise UnsupportedMedia("content-encoding is not one of gzip, deflate, identity")
        inflate = zlib.decompressobj(windows[encoding])
        try:
            plain = inflate.decompress(body, self.max_bytes + 1)
        except zlib.error as error:
            raise MalformedRequest(f"the body is not valid {encoding.decode()}: {error}") from error
        if len(plain) > self.max_bytes:
            raise RequestTooLarge(f"the body has over {self.max_bytes} bytes when decompressed, which is the limit")
        if not inflate.eof or inflate.unused_data:
            raise MalformedRequest(f"the body is not one whole {encoding.decode()} stream")
        return plain


def request_id_of(headers: Headers) -> str:
    """Take the caller's request id if it is a plain token, else make one."""
    value = headers.get(REQUEST_ID_HEADER)
    return (value if value is not None and _REQUEST_ID.fullmatch(value) else b"%016x" % _draw.getrandbits(64)).decode()


def deadline_of(headers: Headers, began_s: float) -> float:
    """When the caller gives up, on the clock of `began_s`; infinity when it does not say.

    Raises
    ------
    MalformedRequest
        The header is not a whole number of milliseconds within bounds.
    """
    deadline_s = float("inf")
    for name in DEADLINE_HEADERS:
        value = headers.get(name)
        if value is None:
            continue
        if not (value.isdigit() and len(value) <= 7 and 1 <= int(value) <= MAX_TIMEOUT_MS):
            raise MalformedRequest(f"header {name.decode()} is not a whole number of milliseconds from 1 to {MAX_TIMEOUT_MS}")
        deadline_s = min(deadline_s, began_s + int(value) / 1e3)
    return deadline_s


async def respond(send: Send, status: int, content: bytes, headers: Iterable[Header]) -> None:
    """Send a whole answer; ``content-length`` is added."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(content)), *headers]})
    await send({"type": "http.response.body", "body": content})
