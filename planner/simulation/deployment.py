"""A closed-loop run of a configuration: its workers, its engine's scheduling, and the requests of the run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from planner.configured import Part, Setup
from planner.costs.engines import HAND_OVER_MS, EngineTraits
from planner.costs.worker import Worker
from planner.options.server import WorkerServer
from planner.running import DecodeRun, PrefillRun, exposed_ms
from planner.simulation.closed_loop import Policy, Requests, Run, run
from planner.simulation.handed_over import Pair, run_pair
from planner.simulation.steps import StepTimes

LARGEST_RUN = 20_000
"""Most requests of one simulated run; of a longer one only so many are sent (`PartRun.cut`)."""


@dataclass(frozen=True)
class Scheduling:
    """Scheduler settings of a run that differ from the engine's defaults.

    Args:
        poll_steps: see `Policy`.
        wait_steps: see `Policy`.
        wait_share: share of a step's most tokens at which held prompts go at once.
    """

    poll_steps: int = 1
    wait_steps: int = 0
    wait_share: float = 0.0

    def policy(self, engine: EngineTraits, budget: int) -> Policy:
        """The policy of one worker, each of whose DP ranks computes up to `budget` tokens in a step."""
        return Policy(
            budget,
            engine.prefill_first,
            engine.request_ms,
            engine.token_us,
            delay_ms=engine.delay_ms,
            lag_steps=engine.lag_steps,
            poll_steps=self.poll_steps,
            wait_steps=self.wait_steps,
            wait_tokens=self.wait_share * budget,
        )


@dataclass(frozen=True, eq=False)
class PartRun:
    """A run of one of the equal parts of a deployment.

    Args:
        run: what its clients saw.
        share: clients of the deployment for every one of the part: the number of parts, unless the clients do not
            divide over them.
        cut: whether the part's run has more requests than `LARGEST_RUN`, and only so many were sent.
    """

    run: Run
    share: float
    cut: bool

    @property
    def throughput_tok_s(self) -> float:
        """Output tokens per second of the deployment, as many for every client as in the part."""
        return self.run.throughput_tok_s * self.share


def equal_parts(setup: Setup, clients: int) -> int:
    """Equal parts of a deployment, of which one is simulated, each with a client at least."""
    lead = setup.parts[-1]
    equal = lead.count if len(setup.parts) == 1 else math.gcd(setup.parts[0].count, lead.count)
    return max(1, min(equal, clients))


def simulate(setup: Setup, scheduling: Scheduling, clients: int, requests: int, *, seed: int = 0) -> PartRun:
    """A run of `requests` requests by `clients` clients, on one of the deployment's equal parts.

    Args:
        setup: aggregated workers, or P/D workers, without two-batch overlap.
        scheduling: of the engine.
        clients: over the deployment.
        requests: over the deployment.
        seed: of the random lengths.

    Raises:
        ValueError: memory does not hold a request, or the mode is not simulated.
    """
    for part in setup.parts:
        if not part.slots:
            raise ValueError("memory does not hold the weights and one request")
    parts = equal_parts(setup, clients)
    on_part, of_part = max(1, round(clients / parts)), max(1, round(requests / parts))
    workload = setup.space.sites[0].workload
    drawn = Requests.of(workload.input_tokens, workload.output_tokens, min(of_part, LARGEST_RUN), seed)
    seen = _run(setup, scheduling, parts, on_part, drawn)
    return PartRun(seen, clients / on_part, of_part > LARGEST_RUN)


def _run(setup: Setup, scheduling: Scheduling, parts: int, clients: int, requests: Requests) -> Run:
    """A run of `clients` clients on one of the deployment's `parts` parts."""
    lead = setup.parts[-1]
    engine = lead.server.site.engine
    if len(setup.parts) == 1:
        policy = scheduling.policy(engine, _budget(lead))
        policy = replace(policy, load_ms=setup.space.prefix_load_ms(lead.server))
        return run(_times(lead, policy.budget), policy, lead.slots, clients, requests)
    first = setup.parts[0]
    prompts = _worker(first)
    policy = scheduling.policy(engine, _budget(first))
    chunks = max(1, math.ceil(prompts.site.lengths.input / policy.budget))
    targets = setup.space.targets
    exposed = exposed_ms(
        setup.space.transfer(), PrefillRun(prompts, targets, 1, chunks), DecodeRun(lead.server, targets, lead.slots)
    )
    pair = Pair(
        _times(replace(first, slots=prompts.layout.dp), policy.budget),
        first.count // parts,
        _times(lead, 1),
        lead.count // parts,
        lead.slots,
        exposed,
        engine.first_token_steps,
        engine.recomputes_last_token,
    )
    policy = replace(policy, delay_ms=policy.delay_ms + HAND_OVER_MS)
    return run_pair(pair, policy, clients, requests)


def _worker(part: Part) -> Worker:
    if not isinstance(part.server, WorkerServer):
        raise ValueError("AFD deployments are not simulated")
    return part.server.worker


def _budget(part: Part) -> int:
    """Most tokens of one DP rank in one step."""
    return max(1, part.step_tokens // _worker(part).layout.dp)


def _times(part: Part, budget: int) -> StepTimes:
    return StepTimes.of(_worker(part), part.slots, budget)
