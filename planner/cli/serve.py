"""`cleave serve`."""

import os
import sys
from pathlib import Path

import click

from planner.cli.codes import ExitCode
from planner.cli.options import positive_number, positive_whole
from specs.errors import SpecError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
EVERYWHERE = ("0.0.0.0", "::")
"""Addresses to listen on that are nobody's to call."""


@click.command(name="serve", short_help="Answer over HTTP, and serve the web page.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Name or address under which browsers reach this server, where it is not that of --host; may be repeated.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--workers",
    type=positive_whole("how many processes", 256),
    metavar="N",
    help="Processes that plan and compare; by default one per core, 8 at most. Two more predict and render.",
)
@click.option(
    "--store",
    envvar="CLEAVE_STORE",
    metavar="URL",
    help="Where jobs are kept: sqlite:///path or postgresql://...; by default a file in the user's state folder. "
    "Also from CLEAVE_STORE.",
)
@click.option(
    "--token",
    envvar="CLEAVE_TOKEN",
    metavar="TEXT",
    help="Bearer token that requests must carry. Better from CLEAVE_TOKEN, which other users cannot see.",
)
@click.option(
    "--max-queued",
    type=positive_whole("how many jobs", 1_000_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="Jobs that may wait; further ones are answered with 429.",
)
@click.option(
    "--max-requests",
    type=positive_whole("how many requests", 1_000_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="Requests that are answered at once; further ones are answered with 503.",
)
@click.option(
    "--max-time-limit",
    type=positive_number("seconds"),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest time limit that a job may ask for.",
)
@click.option(
    "--max-scenario-bytes",
    type=positive_whole("how many bytes", 1_000_000),
    default=256_000,
    show_default=True,
    metavar="N",
    help="Largest scenario or configuration.",
)
@click.option(
    "--max-plan-bytes",
    type=positive_whole("how many bytes", 64_000_000),
    default=4_000_000,
    show_default=True,
    metavar="N",
    help="Largest plan to render or to report on.",
)
@click.option(
    "--examples",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of scenarios that the web page offers.",
)
def command(
    host: str,
    allow_host: tuple[str, ...],
    port: int,
    workers: int | None,
    store: str | None,
    token: str | None,
    max_queued: int,
    max_requests: int,
    max_time_limit: float,
    max_scenario_bytes: int,
    max_plan_bytes: int,
    examples: Path | None,
) -> int:
    """Serve the HTTP API and the web page until SIGTERM or Ctrl-C.

    Jobs and their results outlive the server: it takes up what was not finished when it is started again.

    Exit codes: 0 stopped, 2 the address or the store cannot be used.
    """
    if token is None and os.environ.get("CLEAVE_TOKEN") == "":
        raise SpecError("must not be empty; unset it for a server without a token", field="CLEAVE_TOKEN")
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token != ""):
        raise SpecError("must be printable ASCII characters without spaces around them", field="--token")
    for name in allow_host:
        if not name or (any(character in name for character in "/:@ ") and not name.startswith("[")):
            raise SpecError(
                f"must be a name or an address without a port, an IPv6 one in brackets, got {name[:100]!r}",
                field="--allow-host",
            )
    try:
        from planner.server.database import StoreError
        from planner.server.run import run
        from planner.server.settings import CHECKOUT_EXAMPLES, Settings, default_store
    except ModuleNotFoundError as error:
        raise SpecError(f"needs {error.name}, which is not installed: pip install 'cleave[api]'") from None
    if token is None and host not in LOOPBACK:
        sys.stderr.write(f"cleave: warning: no --token, and whoever reaches {host}:{port} may use this server\n")
        if host in EVERYWHERE and not allow_host:
            sys.stderr.write("cleave: warning: no --allow-host, and only this machine can name this server\n")
    settings = Settings(
        store=default_store() if store is None else store,
        token=token,
        hosts=(f"[{host}]" if ":" in host else host, *allow_host),
        workers=workers or min(os.cpu_count() or 1, 8),
        max_queued=max_queued,
        max_requests=max_requests,
        max_time_limit_s=max_time_limit,
        max_scenario_bytes=max_scenario_bytes,
        max_plan_bytes=max_plan_bytes,
        examples=examples or CHECKOUT_EXAMPLES,
    )
    try:
        return ExitCode.DONE if run(settings, host, port) else ExitCode.INTERNAL_ERROR
    except StoreError as error:
        raise SpecError(str(error), field="--store") from None
