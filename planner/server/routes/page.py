"""The web page."""

import mimetypes
from pathlib import Path

from fastapi import APIRouter, Response
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).resolve().parents[1] / "web"
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

mimetypes.add_type("text/javascript", ".js")  # browsers take modules of no other type, and some machines know another


class Assets(StaticFiles):
    """The files of the page, which may change with every version of the server."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """One file."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def page_routes() -> APIRouter:
    """The page itself."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page() -> Response:
        return FileResponse(FOLDER / "index.html", headers={"Content-Security-Policy": POLICY})

    return router
