"""Arguments and options that several commands share."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

MAX_ALTERNATIVES = 100


def positive_number(what: str, below: float = math.inf) -> Callable[[str | float], float]:
    """Make the reader of a finite number greater than zero.

    Args:
        what: what is counted, in a message.
        below: the number must be less than this.

    """

    def read(value: str | float) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < below:
            limit = "" if below == math.inf else f" and less than {below:g}"
            raise click.BadParameter(f"must be {what}, a number greater than 0{limit}, got {str(value)[:100]!r}")
        return number

    return read


def positive_whole(what: str, most: int) -> Callable[[str | int], int]:
    """Make the reader of a whole number from 1.

    Args:
        what: what is counted, in a message.
        most: the largest accepted.

    """

    def read(value: str | int) -> int:
        text = str(value)
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
        if not 1 <= number <= most:
            raise click.BadParameter(f"must be {what}, a whole number from 1 to {most}, got {text[:100]!r}")
        return number

    return read


def json_option(function: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")(function)


def gap_option(function: F) -> F:
    """Add `--gap`."""
    return click.option(
        "--gap",
        type=positive_number("a relative gap", below=1.0),
        default=1e-3,
        show_default=True,
        metavar="NUMBER",
        help="Relative gap between plan and bound at which the plan counts as optimal.",
    )(function)


def time_limit_option(function: F) -> F:
    """Add `--time-limit`."""
    return click.option(
        "--time-limit",
        "time_limit_s",
        type=positive_number("seconds"),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="Stop after this long with the best plan found.",
    )(function)


def calibration_option(function: F) -> F:
    """Add `--calibration`."""
    return click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="FILE",
        help="Kernel times that `cleave calibrate` measured, for pools of their GPU type; may be repeated.",
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
