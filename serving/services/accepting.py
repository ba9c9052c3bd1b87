"""New connections under load: all that wait, not one a turn of the loop.

libuv takes one connection a turn. A turn lasts microseconds while a worker idles, and tens of milliseconds while it answers all that it may
admit: a thousand callers who come at once would wait for half a minute before a byte of theirs is read. While requests wait for their run,
whoever is taken in therefore brings along the others that wait to be. Otherwise nothing is changed, so that idle workers share new
connections as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

MAX_TOGETHER = 256
"""Most that one connection brings along: each takes some 50 µs, and the turn that it lengthens has an objective."""


class Acceptor:
    """Takes in what waits on the socket that a connection came by.

    Parameters
    ----------
    is_busy
        Whether requests wait for their run.
    """

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self._is_busy = is_busy
        self._listening: socket.socket | None = None
        self._searched = False
        self._joining: set[asyncio.Task[object]] = set()

    def bring_along(self, connection: socket.socket, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        """Take in more, now that `connection` was taken in. Called on the event loop."""
        if self._joining or not self._is_busy():
            return
        if not self._searched:
            self._searched, self._listening = True, _listening(connection)
        if self._listening is None:
            return
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # nobody waits any more, another worker was quicker, or descriptors have run out
            for _ in range(MAX_TOGETHER):
                accepted, _ = self._listening.accept()
                task = loop.create_task(loop.connect_accepted_socket(make_protocol, accepted))
                self._joining.add(task)
                task.add_done_callback(self._joining.discard)


def _listening(connection: socket.socket) -> socket.socket | None:
    """A second handle of the socket that listens at this connection's own port; None where there is none, as with Unix sockets."""
    address = connection.getsockname()
    if not isinstance(address, tuple):
        return None
    for entry in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):  # no socket, or the folder's own descriptor, closed by now
            handle = socket.fromfd(int(entry.name), connection.family, socket.SOCK_STREAM)
            if _listens(handle) and handle.getsockname()[1] == address[1]:
                handle.setblocking(False)
                return handle
            handle.close()
    return None


def _listens(handle: socket.socket) -> bool:
    try:
        return bool(handle.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
