"""A closed-loop run of a configuration: its workers, its engine's scheduling, and the requests of the run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from planner.configured import Part, Setup
from planner.costs.engines import HAND_OVER_MS, EngineTraits
from planner.costs.worker import Worker
from planner.options.server import WorkerServer
from planner.simulation.closed_loop import Policy, Requests, Run, run
from planner.simulation.handed_over import Pair, run_pair
from planner.simulation.steps import StepTimes

LARGEST_RUN = 20_000
"""Requests of one simulated run; a larger deployment of equal parts is simulated in part."""


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
            engine.delay_ms,
            engine.lag_steps,
            self.poll_steps,
            self.wait_steps,
            self.wait_share * budget,
        )


def equal_parts(setup: Setup, clients: int) -> int:
    """Equal parts of a deployment, of which one is simulated, each with a client at least."""
    lead = setup.parts[-1]
    equal = lead.count if len(setup.parts) == 1 else math.gcd(setup.parts[0].count, lead.count)
    return max(1, min(equal, clients))


def simulate(setup: Setup, scheduling: Scheduling, clients: int, requests: int, *, seed: int = 0) -> Run:
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
    lead = setup.parts[-1]
    share = equal_parts(setup, clients)
    clients, requests = max(1, round(clients / share)), max(1, round(requests / share))
    workload = setup.space.sites[0].workload
    drawn = Requests.of(workload.input_tokens, workload.output_tokens, min(requests, LARGEST_RUN), seed)
    engine = lead.server.site.engine
    if len(setup.parts) == 1:
        policy = scheduling.policy(engine, _budget(lead))
        return run(_times(lead, policy.budget), policy, lead.slots, clients, drawn)
    first = setup.parts[0]
    prompts = _worker(first)
    policy = scheduling.policy(engine, _budget(first))
    transfer = setup.space.transfer()
    link = min(part.server.links * part.server.site.fabric.scale_out_bytes_per_ms for part in setup.parts)
    chunks = np.array(max(1, math.ceil(prompts.site.lengths.input / policy.budget)))
    exposed = transfer.exposed_ms(np.array(1.0), link, chunks, prompts.prefill_ms(1.0, chunks))
    pair = Pair(
        _times(replace(first, slots=prompts.layout.dp), policy.budget),
        first.count // share,
        _times(lead, 1),
        lead.count // share,
        lead.slots,
        float(exposed),
        engine.first_token_steps,
    )
    policy = replace(policy, delay_ms=policy.delay_ms + HAND_OVER_MS)
    return run_pair(pair, policy, clients, drawn)


def _worker(part: Part) -> Worker:
    if not isinstance(part.server, WorkerServer):
        raise ValueError("AFD deployments are not simulated")
    return part.server.worker


def _budget(part: Part) -> int:
    """Most tokens of one DP rank in one step."""
    return max(1, part.step_tokens // _worker(part).layout.dp)


def _times(part: Part, budget: int) -> StepTimes:
    return StepTimes.of(_worker(part), part.slots, budget)
