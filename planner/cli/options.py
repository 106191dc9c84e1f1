"""Arguments and options that several commands share."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

MAX_ALTERNATIVES = 100


class PositiveNumber(click.ParamType):
    """A finite number greater than zero.

    Args:
        what: what is counted, in a message.
        below: the number must be less than this.

    """

    name = "number"

    def __init__(self, what: str, below: float = math.inf) -> None:
        self.what = what
        self.below = below

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the number."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < self.below:
            limit = "" if self.below == math.inf else f" and less than {self.below:g}"
            self.fail(f"must be {self.what}, a number greater than 0{limit}, got {str(value)[:100]!r}", param, ctx)
        return number


class PositiveWhole(click.ParamType):
    """A whole number from 1.

    Args:
        what: what is counted, in a message.
        most: the largest accepted.

    """

    name = "integer"

    def __init__(self, what: str, most: int) -> None:
        self.what = what
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number."""
        text = str(value)
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
        if not 1 <= number <= self.most:
            self.fail(f"must be {self.what}, a whole number from 1 to {self.most}, got {text[:100]!r}", param, ctx)
        return number


def json_option(function: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")(function)


def gap_option(function: F) -> F:
    """Add `--gap`."""
    return click.option(
        "--gap",
        type=PositiveNumber("a relative gap", below=1.0),
        default=1e-3,
        show_default=True,
        help="Relative gap between plan and bound at which the plan counts as optimal.",
    )(function)


def time_limit_option(function: F) -> F:
    """Add `--time-limit`."""
    return click.option(
        "--time-limit",
        "time_limit_s",
        type=PositiveNumber("seconds"),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="Stop after this long with the best plan found.",
    )(function)


def formulation_option(function: F) -> F:
    """Add `--formulation`."""
    return click.option(
        "--formulation",
        type=click.Choice(["columns", "piecewise"]),
        default="columns",
        show_default=True,
        help="How batches are chosen: every whole number (columns), or continuous (piecewise).",
    )(function)
