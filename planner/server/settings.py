"""What a server may use and how much it takes on."""

import os
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
"""Examples beside the package in a checkout; an installed package has none there."""


def default_store() -> str:
    """URL of a SQLite file in the user's folder for state."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return f"sqlite:///{Path(state) / 'cleave' / 'jobs.sqlite3'}"


@dataclass(frozen=True)
class Settings:
    """Resources and limits of one server.

    Args:
        store: `sqlite:///path`, `sqlite://` (in memory) or `postgresql://...`.
        token: bearer token that requests must carry; None for an open server.
        hosts: names and addresses, beside those of this machine alone, under which browsers may reach the server.
        workers: processes that plan and compare; two more predict and render.
        max_queued: jobs that may wait for each kind of worker.
        max_requests: requests that are answered at once, those that wait for a job included.
        max_time_limit_s: longest time limit that a job may ask for.
        call_limit_s: time after which a worker that predicts, renders or reports counts as stuck and is killed.
        grace_s: time beyond the time limit of a plan or comparison after which its worker does.
        start_limit_s: time in which a worker must be ready.
        body_limit_s: time in which the body of a request must have arrived.
        max_scenario_bytes: of a scenario or configuration.
        max_plan_bytes: of a plan that is to be rendered.
        worker_memory_bytes: data that one worker may hold; 0 for no limit.
        examples: folder of scenarios that `/v1/examples` gives; one that does not exist has none.
    """

    store: str = field(default_factory=default_store)
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    workers: int = 2
    max_queued: int = 1000
    max_requests: int = 1000
    max_time_limit_s: float = 600.0
    call_limit_s: float = 60.0
    grace_s: float = 60.0
    start_limit_s: float = 120.0
    body_limit_s: float = 30.0
    max_scenario_bytes: int = 256_000
    max_plan_bytes: int = 4_000_000
    worker_memory_bytes: int = 8_000_000_000
    examples: Path = CHECKOUT_EXAMPLES
