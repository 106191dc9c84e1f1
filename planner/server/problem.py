"""Errors as `application/problem+json` (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import Field
from starlette.responses import Response

from specs.base import Spec
from specs.errors import SpecError

MEDIA_TYPE = "application/problem+json"
CLOSE = {"Connection": "close"}
"""Of an answer to a request whose body was not read to its end."""


class Fault(Spec):
    """One thing that is wrong in a request."""

    detail: str
    """What is wrong and what is accepted."""
    field: str | None = None
    """Dotted path in the document, or the name of a query parameter or header."""
    line: int | None = None
    """1-based line of the body; None where it is unknown."""


class Problem(Spec):
    """Why a request was refused, or a job failed."""

    type: str = "about:blank"
    title: str
    """The status in words."""
    status: int = Field(ge=400, le=599)
    """HTTP status code."""
    detail: str
    """What is wrong and what is accepted."""
    field: str | None = None
    """Dotted path in the document, or the name of a query parameter or header."""
    line: int | None = None
    """1-based line of the body."""
    errors: tuple[Fault, ...] | None = None
    """Everything that is wrong, where that is more than one thing."""

    @classmethod
    def of(
        cls,
        status: int,
        detail: str,
        *,
        field: str | None = None,
        line: int | None = None,
        errors: tuple[Fault, ...] | None = None,
    ) -> "Problem":
        """The problem of a status code."""
        title = HTTPStatus(status).phrase
        return cls(title=title, status=status, detail=detail, field=field, line=line, errors=errors)

    @classmethod
    def of_input(cls, error: SpecError) -> "Problem":
        """The problem of a document that is refused."""
        parts = faults(error) if error.parts else None
        return cls.of(422, error.message, field=error.field, line=error.line, errors=parts)

    def document(self) -> dict[str, Any]:
        """The problem without what it does not know."""
        return self.model_dump(mode="json", exclude_none=True)

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """The problem as an answer."""
        text = self.model_dump_json(exclude_none=True)
        return Response(text, self.status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def faults(error: SpecError) -> tuple[Fault, ...]:
    """Everything that an error speaks of."""
    return tuple(Fault(detail=part.message, field=part.field, line=part.line) for part in (error.parts or (error,)))


class Refusal(Exception):
    """Ends a request with a problem.

    Args:
        problem: the answer.
        headers: of the answer.
    """

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.headers = headers


def refusal(status: int, detail: str, *, field: str | None = None, headers: Mapping[str, str] | None = None) -> Refusal:
    """The refusal with a status code."""
    return Refusal(Problem.of(status, detail, field=field), headers)
