"""Limits of connections: their number, and how long a client may take to send a request or to read a response."""

import asyncio
import errno
import resource
import socket
import time
from collections.abc import Iterable
from typing import Any

import psutil
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..console import console

_MIN_CONNECTIONS, _MAX_CONNECTIONS = 8, 256
_SPARE_DESCRIPTORS = 16  # for decoders that restart, and for connections that are not counted yet
_NUM_ACCEPTS = 4  # per turn of the loop: so many can come before they are counted
_READ_BYTES = 1 << 14  # per read: asyncio's 256 KiB, in chunks of one byte, would block the loop for seconds
_QUEUE = 256  # connections that the system holds until they are accepted
_HEADER_SECONDS = 10.0  # from the connection, or the end of the last response, to the last byte of the headers
GRACE_SECONDS = 10.0  # from the start of a body until its average rate counts
MIN_RATE = 1 << 14  # bytes/s, of requests and responses
_MAX_UNSENT = 1 << 28  # bytes of all responses that clients have not read yet
_SHUTDOWN_SECONDS = 5  # for open requests
_LOG_INTERVAL = 60.0  # seconds between two lines on connections that cannot be accepted
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Connection(H11Protocol):
    """A connection that makes room for a new one while its client has sent nothing or half a request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = _READ_BYTES  # type: ignore[attr-defined]
        self.waiting_since = time.monotonic()
        self._sending: tuple[float, int] | None = None  # when a response began to wait for its reader, and its bytes
        assert self.limit_concurrency is not None  # uvicorn responds 503 to requests beyond it
        others = [other for other in _connections(self.connections) if other is not self and other._is_receiving]
        if len(self.connections) >= self.limit_concurrency and others:
            min(others, key=lambda other: (other._has_headers, other.waiting_since)).drop()

    def on_response_complete(self) -> None:
        self.waiting_since = time.monotonic()
        super().on_response_complete()

    def drop(self) -> None:
        """Closes the connection at once."""
        self.connections.discard(self)
        self.transport.abort()

    @property
    def unsent(self) -> int:
        """The bytes of responses that the client has not read yet."""
        return self.transport.get_write_buffer_size()

    @property
    def _has_headers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _is_receiving(self) -> bool:
        return not self.unsent and (not self._has_headers or self.cycle.more_body)

    def is_late(self, now: float) -> bool:
        """Returns whether the client is too slow to send headers, or to read a response."""
        if not self.unsent:
            self._sending = None
            return not self._has_headers and now > self.waiting_since + _HEADER_SECONDS
        start, size = self._sending = self._sending or (now, self.unsent)
        return now > start + GRACE_SECONDS + (size - self.unsent) / MIN_RATE


def _connections(protocols: Iterable[object]) -> list[Connection]:
    return [protocol for protocol in protocols if isinstance(protocol, Connection)]  # all are


class Server(uvicorn.Server):
    """Serves an application, within limits of connections, until it is told to stop."""

    def __init__(self, app: ASGIApp) -> None:
        self._next_log = 0.0
        settings = uvicorn.Config(
            app,
            http=Connection,
            loop="asyncio",  # uvloop's transports have no `max_size`
            ws="none",
            lifespan="off",
            backlog=_NUM_ACCEPTS,
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        super().__init__(settings)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - psutil.Process().num_fds()
        self.config.limit_concurrency = max(_MIN_CONNECTIONS, min(_MAX_CONNECTIONS, descriptors - _SPARE_DESCRIPTORS))
        asyncio.get_running_loop().set_exception_handler(self._report)
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_QUEUE)

    async def on_tick(self, counter: int) -> bool:
        now = time.monotonic()
        connections = sorted(_connections(self.server_state.connections), key=lambda each: each.waiting_since)
        num_unsent = sum(connection.unsent for connection in connections)
        for connection in connections:  # the longest wait first
            # The last one is not dropped: a single response can be larger.
            if connection.is_late(now) or (connection.unsent and num_unsent > max(_MAX_UNSENT, connection.unsent)):
                num_unsent -= connection.unsent
                connection.drop()
        return await super().on_tick(counter)

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Prints an error of the loop; of errors that a full machine repeats for each connection, one a minute."""
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _OUT_OF_RESOURCES):
            loop.default_exception_handler(context)
        elif (now := time.monotonic()) > self._next_log:
            self._next_log = now + _LOG_INTERVAL
            console.print(f"a connection cannot be accepted ({error.strerror}): raise the limit of 'ulimit -n'")
