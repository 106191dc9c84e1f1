"""What a plan says that the files must hold, taken from the plan's own numbers.

The conventions of launch files are restated here, and shared with no code that writes them: the attention replicas of
an AFD unit are one instance, batches and chunks are divided over DP ranks and rounded up, and the longest context is
that of the longest request (four deviations above the mean where only mean and deviation are known), rounded up to 64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.check.model_memory import Shards
from specs import catalog
from specs.errors import SpecError
from specs.model import ModelSpec, MoeFfn
from specs.plan import Deployment, Plan, PoolPlan, Role
from specs.scenario import ResolvedPool, Scenario, resolve_pool
from specs.service import Mode, Service
from specs.workload import DiscreteLength, MeanLength, Workload, resolve_workload

CONTEXT_STEP = 64
DEVIATIONS = 4


@dataclass(frozen=True)
class Expected:
    """One pool of the plan, as the files must launch it.

    Args:
        service: what is served.
        deployment: index among the service's deployments, and how many those are.
        mode: of the deployment.
        role: of the pool.
        model: facts of the model.
        pool: GPUs.
        plan: the pool of the plan.
        max_length: longest context.
        partner_sequences: of an FFN pool, requests on one rank of the attention side; 0 elsewhere.
    """

    service: Service
    deployment: tuple[int, int]
    mode: Mode
    role: Role
    model: ModelSpec
    pool: ResolvedPool
    plan: PoolPlan
    max_length: int
    partner_sequences: int = 0

    @property
    def merged(self) -> int:
        """Replicas of the plan that one instance runs."""
        return self.plan.replicas // self.plan.units if self.role is Role.ATTENTION and self.plan.units else 1

    @property
    def instances(self) -> int:
        """Engine instances."""
        return self.plan.replicas // self.merged

    @property
    def gpus(self) -> int:
        """GPUs of one instance."""
        return self.plan.gpus_per_replica * self.merged

    @property
    def shards(self) -> Shards:
        """Degrees of one instance."""
        plan = self.plan
        return Shards(plan.tp, plan.dp * self.merged, plan.ep, plan.moe_tp, plan.pp)

    @property
    def rank_sequences(self) -> int:
        """Most requests in flight on one DP rank."""
        return math.ceil(self.plan.batch / self.plan.dp)

    @property
    def drafts(self) -> int:
        """Tokens drafted per step."""
        speculative = self.service.speculative
        return 0 if speculative is None or self.role is Role.PREFILL else speculative.draft_tokens

    @property
    def rank_prompt_tokens(self) -> int:
        """Prompt tokens of a step on one DP rank; a prefill batch smaller than the ranks lies on as many of them."""
        ranks = min(self.plan.batch, self.plan.dp) if self.role is Role.PREFILL else self.plan.dp
        return math.ceil(self.plan.chunk_tokens / ranks)

    @property
    def redundant(self) -> int:
        """Expert copies beyond one of each."""
        experts = experts_of(self.model)
        return max(0, self.plan.expert_slots - experts) if experts else 0

    def __str__(self) -> str:
        return f"service {self.service.name}, role {self.role.value}"


def _partner_sequences(pool: PoolPlan, deployment: Deployment) -> int:
    """Requests on one rank of the attention side of an FFN pool's unit; 0 for other pools."""
    if pool.role is not Role.FFN:
        return 0
    sides = [other for other in deployment.pools if other.unit == pool.unit and other.role is Role.ATTENTION]
    return math.ceil(sides[0].batch / sides[0].dp) if sides else 0


def experts_of(model: ModelSpec) -> int:
    """Routed experts of a layer; 0 for a dense model."""
    return next((group.ffn.experts for group in model.layers if isinstance(group.ffn, MoeFfn)), 0)


def expected(plan: Plan) -> tuple[Expected, ...]:
    """Everything that a plan asks to be launched.

    Raises:
        SpecError: the plan does not carry its scenario, or has nothing to launch.
    """
    if plan.scenario is None:
        raise SpecError("is missing; accepted: a plan written by `cleave plan`, with its scenario", field="scenario")
    if not plan.services:
        raise SpecError(f"has nothing to launch: its status is {plan.status.value}", field="status")
    pools = resolved(plan.scenario)
    services = {service.name: service for service in plan.scenario.services}
    found = []
    for planned in plan.services:
        service = services[planned.name]
        model = catalog.model(service.model)
        length = longest(resolve_workload(service.workload), model)
        for d, deployment in enumerate(planned.deployments):
            found += [
                Expected(
                    service,
                    (d, len(planned.deployments)),
                    deployment.mode,
                    pool.role,
                    model,
                    pools[pool.gpu_pool],
                    pool,
                    length,
                    _partner_sequences(pool, deployment),
                )
                for pool in deployment.pools
            ]
    return tuple(found)


def resolved(scenario: Scenario) -> dict[str, ResolvedPool]:
    """The pools of a scenario, completed from the catalogue."""
    return {pool.name: resolve_pool(pool) for pool in scenario.cluster.pools}


def longest(workload: Workload, model: ModelSpec) -> int:
    """Longest context that a request reaches, rounded up, and no longer than the model allows."""
    total = 0.0
    for length in (workload.prefix_tokens, workload.input_tokens, workload.output_tokens):
        match length:
            case MeanLength():
                total += length.mean + DEVIATIONS * length.cv * length.mean
            case DiscreteLength():
                total += max(v for v, weight in zip(length.values, length.weights, strict=True) if weight)
            case _:
                total += length
    return min(CONTEXT_STEP * math.ceil(total / CONTEXT_STEP), model.max_context_tokens)
