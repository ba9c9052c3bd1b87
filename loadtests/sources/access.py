"""How the service is reached beside its address: the bearer token, and the authority that its certificate is signed by.

The calls of a source have the token in their headers. TLS is for whoever opens the connections: the engine takes
`Access.tls_context` and must verify (Locust's fast client does not unless it is told: ``insecure = False``, ``ssl_context_factory``).
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from loadtests.errors import ServiceError
from serving.contract.errors import SettingsError

TIMEOUT_S = 5.0
"""A service that is up tells what it serves in milliseconds."""

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""A specification of the largest allowed size (1,000 fields) is about 0.3 MB."""

MAX_TOKEN_FILE_BYTES = 64 * 1024
MAX_SHOWN = 300

NO_PILOTAGE = "is this a Pilotage service?"


class NoSuchThing(ServiceError):
    """The service has not what was asked for: HTTP 404."""


def check_host(host: str) -> str:
    """Return `host` without a trailing slash.

    Raises
    ------
    SettingsError
        When it is not ``http://…`` or ``https://…``.
    """
    try:
        parts = urllib.parse.urlsplit(host)
        parts.port  # noqa: B018 - raises where the port is no number
    except ValueError as error:
        raise SettingsError(f"host {host!r} is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"host {host!r} must be like http://127.0.0.1:3000")
    return host.rstrip("/")


@dataclass(frozen=True)
class Access:
    """What callers must bring along.

    Attributes
    ----------
    token_file
        File whose first line that is not blank is the bearer token; read once, before the load. The service's own token file will do.
    ca_file
        Certificates (PEM) of the authorities to trust in place of the system's, for ``https://``.
    """

    token_file: Path | None = None
    ca_file: Path | None = None

    def headers(self) -> dict[str, str]:
        """Headers that every request must have.

        Raises
        ------
        SettingsError
            The file cannot be read or has no token. No token is part of the message.
        """
        if self.token_file is None:
            return {}
        try:
            with self.token_file.open("rb") as file:
                lines = file.read(MAX_TOKEN_FILE_BYTES).splitlines()
        except OSError as error:
            raise SettingsError(f"token_file {self.token_file} cannot be read: {error.strerror}") from error
        token = next((line.strip() for line in lines if line.strip()), b"")
        if not token or not all(33 <= byte < 127 for byte in token):
            raise SettingsError(f"token_file {self.token_file} must have a token in its first line, printable characters without spaces")
        return {"Authorization": f"Bearer {token.decode('ascii')}"}

    def tls_context(self) -> ssl.SSLContext:
        """Return a context that verifies the service's certificate and name.

        Raises
        ------
        SettingsError
            `ca_file` cannot be read or holds no certificate.
        """
        try:
            return ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        except OSError as error:  # ssl.SSLError among them
            reason = "it holds no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
            raise SettingsError(f"ca_file {self.ca_file} cannot be used: {reason}") from error


class Caller:
    """Asks a service a few questions before the load begins.

    Parameters
    ----------
    host
        Its address.
    access
        What must be brought along.

    Raises
    ------
    SettingsError
        `host` is no address, or a file of `access` is of no use.
    """

    def __init__(self, host: str, access: Access) -> None:
        self.host = check_host(host)
        self._access = access
        self._headers = access.headers()
        # No proxy, whatever the environment says: the load goes straight to the host, and so must this.
        handlers: list[Any] = [urllib.request.ProxyHandler({})]
        if self.host.startswith("https://"):
            handlers.append(urllib.request.HTTPSHandler(context=access.tls_context()))
        elif access.ca_file is not None:
            raise SettingsError(f"ca_file {access.ca_file} is given, but {self.host} is not https://")
        self._opener = urllib.request.build_opener(*handlers)

    def ask(self, path: str, *, method: str = "GET", body: bytes | None = None, media: str = "", timeout_s: float = TIMEOUT_S) -> Any:
        """Send one request and return its JSON answer, None where the answer is empty.

        Raises
        ------
        NoSuchThing
            It was answered with 404.
        ServiceError
            There is no usable answer.
        SettingsError
            The token is missing or refused, or a value breaks a rule of the service.
        """
        url = self.host + path
        headers = {**self._headers, **({"Content-Type": media} if media else {})}
        request = urllib.request.Request(url, data=body, method=method, headers=headers)  # noqa: S310 - `check_host` has seen the scheme
        try:
            with self._opener.open(request, timeout=timeout_s) as answer:
                content = answer.read(MAX_ANSWER_BYTES)
            return json.loads(content) if content else None
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(f"{method} {url}", error.code, _told(error)) from error
        except (OSError, ValueError, HTTPException) as error:
            raise self._silence(f"{method} {url}", getattr(error, "reason", error)) from error

    def _refusal(self, asked: str, status: int, told: str) -> ServiceError | SettingsError:
        if status == 401:
            file = self._access.token_file
            problem = (
                "it wants a bearer token; name a file that has one (--token-file, or token_file in [traffic])"
                if file is None
                else f"the token of {file} is not known"
            )
            return SettingsError(f"{asked} was answered with HTTP 401: {problem}")
        if status in (413, 422):  # well understood, and against a rule
            return SettingsError(f"{asked} was answered with HTTP {status}; {told}")
        kind = NoSuchThing if status == 404 else ServiceError
        return kind(f"{asked} was answered with HTTP {status}; {told or NO_PILOTAGE}")

    def _silence(self, asked: str, reason: object) -> ServiceError | SettingsError:
        if isinstance(reason, ssl.SSLCertVerificationError):
            trusted = "the system's authorities; name the file of your own (--ca-file, or ca_file in [traffic])"
            if self._access.ca_file is not None:
                trusted = f"those of {self._access.ca_file}"
            return SettingsError(f"{asked}: the certificate does not hold ({reason.verify_message}); trusted are {trusted}")
        if isinstance(reason, ssl.SSLError):
            return ServiceError(f"{asked}: no TLS connection ({reason.reason or reason}); does the service speak http:// there?")
        if isinstance(reason, HTTPException | ConnectionResetError):  # what a server of TLS does with a request that is not
            return ServiceError(f"{asked} got no answer that is HTTP ({type(reason).__name__}); does the service speak https:// there?")
        if isinstance(reason, ValueError):
            return ServiceError(f"{asked} was answered with something that is not JSON ({reason}); {NO_PILOTAGE}")
        return ServiceError(f"{asked} got no answer ({reason}); start the service, or give its address with --host")


def _told(error: urllib.error.HTTPError) -> str:
    """Return what the service says of an error, shortened; empty where it says nothing that is ours."""
    try:
        message = json.loads(error.read(MAX_ANSWER_BYTES))["error"]["message"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return str(message)[:MAX_SHOWN]
