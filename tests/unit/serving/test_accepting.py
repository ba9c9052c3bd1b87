"""Who waits to be taken in comes along with who was, while the worker is busy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.services import accepting
from serving.services.accepting import Acceptor


class Taken(asyncio.Protocol):
    def __init__(self, into: list[asyncio.BaseTransport]) -> None:
        self.into = into

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.into.append(transport)


async def _bring(listening: socket.socket, connect: int, *, is_busy: bool) -> int:
    """Connect, take in the first as a server does, and count who came along."""
    callers = []
    for _ in range(connect):
        caller = socket.socket(listening.family)
        caller.connect(listening.getsockname())
        callers.append(caller)
    first, _ = listening.accept()
    taken: list[asyncio.BaseTransport] = []
    acceptor = Acceptor(lambda: is_busy)
    acceptor.bring_along(first, lambda: Taken(taken))
    for _ in range(20):
        await asyncio.sleep(0)
    for transport in taken:
        transport.close()
    await asyncio.sleep(0)
    for held in (*callers, first, *filter(None, [acceptor._listening])):
        held.close()
    return len(taken)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server


@pytest.mark.parametrize(("is_busy", "expected"), [(True, 19), (False, 0)])
def test_a_busy_worker_takes_in_all_that_wait_and_an_idle_one_leaves_them_to_the_others(
    listening: socket.socket, is_busy: bool, expected: int
) -> None:
    assert asyncio.run(_bring(listening, 20, is_busy=is_busy)) == expected


def test_one_connection_brings_along_a_bounded_number(listening: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "MAX_TOGETHER", 5)
    assert asyncio.run(_bring(listening, 20, is_busy=True)) == 5


def test_a_unix_socket_is_left_to_the_server(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen(8)
        assert asyncio.run(_bring(server, 3, is_busy=True)) == 0
