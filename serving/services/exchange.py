"""One HTTP exchange in plain ASGI: the body in, bounded before any work; the answer out."""

from __future__ import annotations

import re
import secrets
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Protocol

from serving.contract.errors import CallerGone, MalformedRequest, Overloaded, RequestTooLarge, UnsupportedMedia

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Mapping[bytes, bytes]
"""Names in lower case; of repeated headers the last."""

REQUEST_ID_HEADER = b"x-request-id"
DEADLINE_HEADERS = (b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms")
"""Milliseconds that the caller will wait from now on. The second is what Envoy tells its upstreams by itself."""

MAX_TIMEOUT_MS = 3_600_000

MAX_BUFFERED_BODIES = 64
"""Bodies of the largest size that may be in memory at once; beyond it requests are refused before they are read."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_WINDOW_OF_GZIP = 16 + zlib.MAX_WBITS
_WINDOW_OF_ZLIB = zlib.MAX_WBITS


class AsgiApp(Protocol):
    """An ASGI application."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        ...


class BodyReader:
    """Reads whole bodies, each and all together within a bound.

    Parameters
    ----------
    max_bytes
        Of one body, as sent and after decompression.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._budget_bytes = max_bytes * MAX_BUFFERED_BODIES

    async def read(self, headers: Headers, receive: Receive) -> bytes:
        """Read one body and decompress it if need be.

        Raises
        ------
        RequestTooLarge
            The body is over the bound, or would be when decompressed.
        UnsupportedMedia
            A content encoding other than ``gzip``, ``deflate`` and ``identity``.
        MalformedRequest
            The compressed body is damaged.
        Overloaded
            Too many bodies are being read.
        CallerGone
            The connection was closed before the end.
        """
        length = headers.get(b"content-length")
        size_bytes = int(length) if length is not None and length.isdigit() else self.max_bytes
        if size_bytes > self.max_bytes:
            raise RequestTooLarge(f"the body has {size_bytes} bytes, the limit is {self.max_bytes}; send fewer candidates a request")
        if size_bytes > self._budget_bytes:
            raise Overloaded(f"bodies of {MAX_BUFFERED_BODIES * self.max_bytes} bytes are being read already")
        self._budget_bytes -= size_bytes
        try:
            body = await self._read(receive)
        finally:
            self._budget_bytes += size_bytes
        encoding = headers.get(b"content-encoding")
        return body if encoding is None else self._decompress(body, encoding.strip().lower())

    async def _read(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size_bytes = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise CallerGone("the caller closed the connection while it sent the body")
            chunk: bytes = message.get("body", b"")
            size_bytes += len(chunk)
            if size_bytes > self.max_bytes:
                raise RequestTooLarge(f"the body is over the limit of {self.max_bytes} bytes; send fewer candidates a request")
            if not message.get("more_body", False):
                return b"".join((*chunks, chunk)) if chunks else chunk
            chunks.append(chunk)

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
    return value.decode() if value is not None and _REQUEST_ID.fullmatch(value) else secrets.token_hex(8)


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


def has_left(receive: Receive) -> bool:
    """Whether the caller closed the connection, after its whole body was read.

    One step of `receive` without a task: it either gives ``http.disconnect`` at once or would wait, and is put back.
    """
    waiting = receive()
    try:
        waiting.send(None)  # type: ignore[attr-defined]
    except StopIteration as ended:
        return bool(ended.value["type"] == "http.disconnect")
    except AttributeError:
        return False  # an awaitable that is no coroutine cannot be asked
    waiting.close()  # type: ignore[attr-defined]
    return False


async def respond(send: Send, status: int, content: bytes, media: bytes, extra: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send a whole answer."""
    headers = [(b"content-type", media), (b"content-length", b"%d" % len(content)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
