"""What every request passes: a limit on how many there are, the token or the host, and the count of the answers."""

import hmac
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from planner.server.metrics import Metrics
from planner.server.origin import known_host, of_another_site
from planner.server.problem import CLOSE, Problem
from planner.server.settings import Settings

OPEN_PATHS = ("/", "/healthz", "/openapi.json", "/web")
"""Paths that need no token; `/web` with everything below."""
BUSY_RETRY_S = 1
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Methods that are counted by name: a client may call its own anything."""


class Gate:
    """ASGI middleware around the routes.

    Args:
        app: the routes.
        settings: token and limit.
        metrics: counts.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._token = settings.token.encode() if settings.token else None
        self._hosts = settings.hosts
        self._most = settings.max_requests
        self._metrics = metrics
        self._now = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_s, status = time.monotonic(), 500

        async def count(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "no-referrer")
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        self._now += 1
        try:
            refused = self._refused(scope)
            await (self._app if refused is None else refused)(scope, receive, count)
        finally:
            self._now -= 1
            route = _route(scope)
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.requests.labels(method, route or "none", str(status)).inc()
            self._metrics.request_seconds.labels(route or "none").observe(time.monotonic() - start_s)

    def _refused(self, scope: Scope) -> ASGIApp | None:
        path = scope["path"]
        if self._now > self._most and path != "/healthz":
            detail = f"{self._most} requests are being answered already, the most at once; ask again later"
            return Problem.of(503, detail).response({"Retry-After": str(BUSY_RETRY_S)})
        headers = Headers(scope=scope)
        # With a token nobody gets in under a foreign name who does not know it; probes name a machine as they like.
        if self._token is None and path != "/healthz" and not known_host(headers, self._hosts):
            detail = "names no host of this server; accepted: localhost, and the names of --host and --allow-host"
            return Problem.of(421, detail, field="Host").response(CLOSE)
        if of_another_site(scope["method"], headers, self._hosts):
            detail = "is another web site; accepted: pages of this server, and programs"
            return Problem.of(403, detail, field="Origin").response(CLOSE)
        if self._token is None or path in OPEN_PATHS or path.startswith("/web/"):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token):
            return None
        detail = "needs the header `Authorization: Bearer TOKEN` with the token of this server"
        return Problem.of(401, detail, field="Authorization").response({"WWW-Authenticate": "Bearer", **CLOSE})


def _route(scope: MutableMapping[str, Any]) -> str | None:
    """The path template that answered; None where no route did."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else None
