"""The group of all commands, each imported when it is called."""

import difflib
import importlib
from importlib.metadata import PackageNotFoundError

import click

COMMANDS = {
    "plan": "Find the best deployment, and prove how good it is.",
    "compare": "Set the best plan of every serving mode side by side.",
    "explain": "Say why the plan is what it is, or what would make one possible.",
    "validate": "Score the predictions against measured points.",
    "predict": "Say what one configuration reaches, without any search.",
    "calibrate": "Measure the kernels that a model needs on this machine's GPU.",
    "render": "Write the files that launch a plan.",
    "check": "Count the GPUs of launch files again, and look for mistakes in them.",
    "report": "Write a plan as one page for people to read.",
    "serve": "Answer over HTTP, with a web page.",
    "catalog": "Show the GPUs, models and workloads known by name.",
}
"""Short help by command; the command is `command` in the module of its name here."""


class LazyGroup(click.Group):
    """A group that knows its commands by name, and imports one only to run it or to show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"planner.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown command with the nearest ones."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else f"; the commands are {', '.join(COMMANDS)}"
            raise click.UsageError(f"no such command {name!r}{hint}", ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    try:
        version = importlib.metadata.version("cleave")
    except PackageNotFoundError:
        version = "unknown (not installed)"
    click.echo(f"cleave {version}")
    ctx.exit()


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 internal error, 2 bad input, 3 infeasible, 4 a check failed, 5 nothing found in "
    "time, 130 interrupted.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
def cleave() -> None:
    """Find the best way to deploy large language models on GPUs, and prove how good the answer is."""
