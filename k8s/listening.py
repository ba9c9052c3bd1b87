"""What the two small HTTP servers of a rollout have in common: the gate's, and the collector's of copies."""

from __future__ import annotations

import socket
import socketserver
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CLIENT_LIMIT_S = 10.0
"""For a client that is slow: whoever waits for an answer waits no longer than this."""


class SmallServer(ThreadingHTTPServer):
    """Answers each client in a thread of its own, so that a slow one keeps nobody waiting."""

    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        """Bind, without asking a name server for our own name as `HTTPServer` does: a pod may have none to ask."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)
