"""The text in the body of a request."""

import asyncio
import json
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from planner.server.problem import Problem, Refusal, refusal

JSON = "application/json"
YAML = "application/yaml"
TYPES = {JSON: JSON, YAML: YAML, "application/x-yaml": YAML, "text/yaml": YAML, "text/x-yaml": YAML}
"""Media types of documents, and what they are."""
PLAIN = {"text/plain": YAML}


READERS = 4
"""Documents that are read at once. Each takes a thread, and the server's own needs its turn between theirs."""

T = TypeVar("T")


class Reader:
    """Reads bodies.

    Args:
        limit_s: time in which a body must have arrived.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._turns = asyncio.Semaphore(READERS)

    async def document(self, request: Request, max_bytes: int, parse: Callable[[str], T], *, plain: bool = False) -> T:
        """The document in a body.

        Args:
            request: the request.
            max_bytes: the most that is accepted.
            parse: makes it of the text.
            plain: as of `text`.

        Raises:
            Refusal: as `text`.
        """
        text = await self.text(request, max_bytes, plain=plain)
        async with self._turns:
            return await asyncio.to_thread(parse, text)

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
            raise refusal(408, f"the body did not arrive within {self._limit_s:g} s") from None
        except ClientDisconnect:
            raise refusal(400, "the body ended too early") from None
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise Refusal(Problem.of(400, "is not UTF-8 text; accepted: JSON or YAML in UTF-8", line=line)) from None
        if kind == JSON and not plain:
            _check_json(text)
        return text


async def _read(request: Request, max_bytes: int) -> bytes:
    too_large = f"is larger than {max_bytes:,} bytes, the most that is accepted"
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and len(stated) < 20 and int(stated) > max_bytes:
        raise refusal(413, too_large)
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > max_bytes:
            raise refusal(413, too_large)
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


def _check_json(text: str) -> None:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise Refusal(Problem.of(400, f"is not JSON: {error.msg} at column {error.colno}", line=error.lineno)) from None
    except (ValueError, RecursionError):
        return  # a number of thousands of digits, or brackets nested as deep: refused with its line when it is read
