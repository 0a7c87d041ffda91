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
    IP addresses are always allowed, the name `host`, and the names `allowed`; *.example.org stands for its subdomains.
    Behind a proxy that sends a Host of its own, pages of `allowed` may use the server, too. HEAD is answered as GET.
    """

    def __init__(self, app: ASGIApp, host: str, allowed: Iterable[str]) -> None:
        hostname = socket.gethostname().lower()
        self._app, self._allowed = app, [name.lower().rstrip(".") for name in allowed]
        self._names = ["localhost", "*.localhost", hostname, f"{hostname}.local", host.lower(), *self._allowed]

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
        method = "GET" if scope["method"] == "HEAD" else scope["method"]  # uvicorn leaves out the body
        await response({**scope, "method": method}, receive, send_with_headers)

    def _error(self, headers: Headers) -> str | None:
        host, origin = headers.get("host"), headers.get("origin")
        name = _hostname(f"//{host}")
        if host is not None and not (_matches(name, self._names) or _is_address(name)):  # all browsers send a host
            option = f"--allow-host {name or 'NAME'}"
            return f"{name!r} is not a name of this server: use its address, or start it with {option}"
        if origin is not None and origin.partition("://")[2] != host and not _matches(_hostname(origin), self._allowed):
            return f"a page of {origin} may not use this server"
        return None


def _hostname(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:  # brackets without an IPv6 address
        return ""


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(name.endswith(pattern[1:]) if pattern[0] == "*" else name == pattern for pattern in patterns)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
