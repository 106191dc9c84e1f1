"""The command line: `cleave`. Nothing heavy is imported until a command needs it."""

import os
import sys
from collections.abc import Sequence

import click

from planner.cli.codes import ExitCode
from planner.cli.failure import Failure
from planner.cli.group import cleave
from planner.cli.output import discard_stdout
from specs.errors import SpecError

DEBUG_VARIABLE = "CLEAVE_DEBUG"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; never raises.

    Args:
        arguments: what follows the program's name; those of the process by default.

    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without box-drawing characters gets question marks
    json_wanted = "--json" in given[: given.index("--")] if "--" in given else "--json" in given
    try:
        return int(cleave.main(given or ["--help"], prog_name="cleave", standalone_mode=False) or ExitCode.DONE)
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("cleave: interrupted, and no plan was found yet\n")
        return ExitCode.INTERRUPTED
    except SystemExit:  # click and rich exit so when the reader of a pipe has gone
        discard_stdout()
        return ExitCode.DONE
    except click.ClickException as error:
        Failure.of_usage(error).report(json_wanted)
        return ExitCode.BAD_INPUT
    except SpecError as error:
        Failure.of_input(error).report(json_wanted)
        return ExitCode.BAD_INPUT
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            import traceback

            traceback.print_exc()
        Failure.of_bug(error, DEBUG_VARIABLE).report(json_wanted)
        return ExitCode.INTERNAL_ERROR
