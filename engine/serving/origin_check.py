"""ASGI middleware that keeps pages of other sites, open in the user's browser, from using the server."""

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class OriginCheck:
    """Answers 403 to requests with another Host or Origin than the server's; adds security headers to all responses.

    A host name must be the server's, since an attacker can point a name of their own at this machine (DNS rebinding).
    IP addresses are always allowed.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        hostname = socket.gethostname().lower()
        self._app, self._names = app, {"localhost", hostname, f"{hostname}.local", *names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        error = self._error(Headers(scope=scope))
        response = JSONResponse({"detail": error}, status_code=403) if error else self._app
        await response(scope, receive, send_with_headers)

    def _error(self, headers: Headers) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = _hostname(f"//{host}")
        if not (name in self._names or _is_address(name)):
            return f"{name!r} is not a name of this server: use its address, or start it with --host {name}"
        if origin is not None and origin.partition("://")[2] != host:
            return f"a page of {origin} may not use this server"
        return None


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets without an IPv6 address
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
