"""Runs the server until it is told to stop."""

import asyncio
import signal
import socket
import sys

import uvicorn

from planner.server.app import create_app
from planner.server.database import without_secrets
from planner.server.desk import Desk
from planner.server.settings import Settings
from specs.errors import SpecError

SHUTDOWN_S = 10
"""How long requests that are being answered may take once the server was told to stop."""


class _Server(uvicorn.Server):
    """A server that says when it is there, and when it ends lets those go first who wait for jobs."""

    def __init__(self, config: uvicorn.Config, desk: Desk, greeting: str) -> None:
        super().__init__(config)
        self._desk = desk
        self._greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start."""
        await super().startup(sockets)
        if self.started:
            sys.stderr.write(self._greeting)
            sys.stderr.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        self._desk.release()
        await super().shutdown(sockets)


def run(settings: Settings, host: str, port: int) -> bool:
    """Serve until SIGTERM or SIGINT; say whether the server ever started.

    Raises:
        SpecError: the address cannot be used, or the store is refused.
        StoreError: the store cannot be reached.
    """
    bound = _bind(host, port)
    app = create_app(settings)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=SHUTDOWN_S
    )
    shown = f"[{host}]" if ":" in host else host
    greeting = f"cleave: http://{shown}:{bound.getsockname()[1]} (jobs in {without_secrets(settings.store)})\n"
    server = _Server(config, app.state.desk, greeting)
    before = {number: signal.signal(number, _noted) for number in (signal.SIGTERM, signal.SIGINT)}

    async def serve() -> None:
        await app.state.desk.open()  # here rather than at the start of the app, so that its errors come out
        await server.serve(sockets=[bound])

    try:
        asyncio.run(serve())
    finally:
        bound.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    return server.started


def _noted(number: int, frame: object) -> None:
    """Take the signal that uvicorn raises once more after an orderly end."""


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(2048)
    except OSError as error:
        raise SpecError(
            f"{host}:{port} cannot be used: {error.strerror or error}; accepted: an address of this machine and a "
            "free port",
            field="--host",
        ) from None
    return bound
