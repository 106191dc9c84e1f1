"""The text in the body of a request."""

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request

from planner.server.desk import Desk
from planner.server.problem import CLOSE, Problem, Refusal, refusal
from planner.server.work import QUICK, WORK, unheard

JSON = "application/json"
YAML = "application/yaml"
TYPES = {JSON: JSON, YAML: YAML, "application/x-yaml": YAML, "text/yaml": YAML, "text/x-yaml": YAML}
"""Media types of documents, and what they are."""
PLAIN = {"text/plain": YAML}

READERS = 4
"""Documents that are read at once. Each takes a thread, and the server's own needs its turn between theirs."""
LARGE = 8_000
"""Characters from which on a worker process reads a document: its parser lets no other thread run meanwhile."""


class Reader:
    """Reads bodies.

    Args:
        limit_s: time in which a body must have arrived.
        desk: has large ones read.
    """

    def __init__(self, limit_s: float, desk: Desk) -> None:
        self._limit_s = limit_s
        self._desk = desk
        self._turns = asyncio.Semaphore(READERS)

    async def document(self, request: Request, max_bytes: int, work: str, *, plain: bool = False) -> Any:
        """The document in a body, as plain data.

        Args:
            request: the request.
            max_bytes: the most that is accepted.
            work: name of the work that makes it of the text.
            plain: as of `text`.

        Raises:
            Refusal: as `text`, or the document is refused.
            SpecError: the document is refused.
        """
        text = await self.text(request, max_bytes, plain=plain)
        return await self._read(request, text, work)

    async def text(self, request: Request, max_bytes: int, *, plain: bool = False) -> str:
        """The body as text.

        Args:
            request: the request.
            max_bytes: the most that is accepted.
            plain: whether any text is accepted, and JSON need not be JSON yet.

        Raises:
            Refusal: another media type, too large, too slow, not UTF-8 or not JSON.
        """
        kind = _kind(request, plain)
        try:
            async with asyncio.timeout(self._limit_s):
                data = await _read(request, max_bytes)
        except TimeoutError:
            raise refusal(408, f"the body did not arrive within {self._limit_s:g} s", headers=CLOSE) from None
        except ClientDisconnect:
            raise refusal(400, "the body ended too early") from None
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise Refusal(Problem.of(400, "is not UTF-8 text; accepted: JSON or YAML in UTF-8", line=line)) from None
        if kind == JSON and not plain and (wrong := await self._read(request, text, "check_json")) is not None:
            raise Refusal(Problem.of(400, wrong["detail"], line=wrong["line"]))
        return text

    async def _read(self, request: Request, text: str, work: str) -> Any:
        arguments = {"text": text}
        if len(text) >= LARGE:
            return (await self._desk.call(request, QUICK, work, arguments))["document"]
        async with self._turns:
            return (await asyncio.to_thread(WORK[work], arguments, unheard))["document"]


async def _read(request: Request, max_bytes: int) -> bytes:
    too_large = f"is larger than {max_bytes:,} bytes, the most that is accepted"
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and len(stated) < 20 and int(stated) > max_bytes:
        raise refusal(413, too_large, headers=CLOSE)
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > max_bytes:
            raise refusal(413, too_large, headers=CLOSE)
    return bytes(data)


def _kind(request: Request, plain: bool) -> str:
    accepted = {**TYPES, **PLAIN} if plain else TYPES
    stated = request.headers.get("content-type", "")
    name, *parameters = (part.strip().lower() for part in stated.split(";"))
    charsets = [part.partition("=")[2].strip('"') for part in parameters if part.startswith("charset=")]
    if name not in accepted or any(charset not in ("utf-8", "utf8", "us-ascii") for charset in charsets):
        raise refusal(415, f"must be one of {', '.join(accepted)} in UTF-8, got {stated[:100]!r}", field="Content-Type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise refusal(415, "must be left out: bodies are not compressed", field="Content-Encoding")
    return accepted[name]
