"""Keeps other sites' pages, which a person's browser also shows, from using the server."""

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_NOTHING = "default-src 'none'; frame-ancestors 'none'"


class OriginCheck:
    """Refuses requests for other hosts' names and those that pages from elsewhere send; adds headers to all answers.

    A name that a stranger has pointed at this machine (DNS rebinding) is none of ours; an address needs no list, since
    no name was asked for.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        here = socket.gethostname().lower()
        self._app, self._names = app, {"localhost", here, f"{here}.local", *names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**_HEADERS, "Content-Security-Policy": _NOTHING}.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        answer = JSONResponse({"detail": refusal}, status_code=403) if refusal else self._app
        await answer(scope, receive, send_guarded)

    def _refusal(self, headers: Headers) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = _hostname(f"//{host}")
        if not (name in self._names or _is_address(name)):
            return f"this server does not go by the name {name!r}: use its address, or start it with --host {name}"
        if origin is not None and origin.partition("://")[2] != host:
            return f"a page of {origin} may not use this server"
        return None


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets that hold no address
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
