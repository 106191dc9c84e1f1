"""What a command prints when it cannot do its work."""

import json
import sys
from dataclasses import asdict, dataclass

import click

from planner.cli.output import write
from specs.errors import SpecError


@dataclass(frozen=True)
class Failure:
    """One message, and the place it speaks of.

    Args:
        message: what is wrong and what is accepted.
        field: field of the file, or option of the command.
        file: the file, or None where the command line itself is wrong.
        line: 1-based line in that file.
        command: words before the message where there is no file.

    """

    message: str
    field: str | None = None
    file: str | None = None
    line: int | None = None
    command: str = "cleave"

    @classmethod
    def of_input(cls, error: SpecError) -> "Failure":
        """Failure of bad input."""
        return cls(error.message, error.field, error.file, error.line)

    @classmethod
    def of_usage(cls, error: click.ClickException) -> "Failure":
        """Failure of a command line that click refuses."""
        context = error.ctx if isinstance(error, click.UsageError) else None
        command = context.command_path if context else "cleave"
        field = None
        message = error.format_message()
        if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter) and error.param:
            field = _written(error.param)
            message = error.message  # without click's "Invalid value for"
        return cls(f"{message.rstrip('.')}; `{command} --help` lists what is accepted", field, command=command)

    @classmethod
    def of_bug(cls, error: Exception, debug_variable: str) -> "Failure":
        """Failure that is ours."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return cls(f"internal error: {text[:500]} (set {debug_variable}=1 for the traceback)")

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return ": ".join(part for part in (where or self.command, self.field, self.message) if part)

    def report(self, as_json: bool) -> None:
        """Print the message to standard error and, where JSON is asked for, an object to standard output."""
        sys.stderr.write(f"{self}\n")
        if as_json:
            place = {key: value for key, value in asdict(self).items() if key != "command"}
            write(json.dumps({"error": place}, indent=2) + "\n")


def _written(parameter: click.Parameter) -> str:
    """Name of a parameter as the user writes it."""
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return parameter.human_readable_name
