"""What a plan asks to be launched: replicas that are alike, grouped into deployments."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePath

from specs.catalog import model as catalogue_model
from specs.errors import SpecError
from specs.model import ModelSpec
from specs.plan import Deployment, Plan, PoolPlan, Role
from specs.scenario import ResolvedPool, Scenario, resolve_pool
from specs.service import Mode, Service
from specs.workload import DiscreteLength, MeanLength, Workload, resolve_workload

LONGEST_DEVIATIONS = 4.0
"""A length known by mean and deviation is given room for this many deviations above the mean."""
LENGTH_STEP = 64
"""Context limits are rounded up to a multiple of this many tokens, which every engine's KV block size divides."""
NAME_LENGTH = 40
"""Longest name of a component: launchers append indices, and a DNS label holds 63 characters."""


@dataclass(frozen=True)
class Component:
    """Replicas of one layout that are launched alike: one pool of a deployment.

    Args:
        name: unique in the plan; a DNS label of at most `NAME_LENGTH` characters.
        service: what is served.
        model: facts of that model.
        mode: serving mode of the deployment.
        pool: the GPUs it runs on.
        plan: the pool of the plan.
        max_model_len: longest context that a request reaches, in tokens.
    """

    name: str
    service: Service
    model: ModelSpec
    mode: Mode
    pool: ResolvedPool
    plan: PoolPlan
    max_model_len: int

    @property
    def role(self) -> Role:
        """What a replica does."""
        return self.plan.role

    @property
    def weights(self) -> str:
        """What the engine is told to load: a Hugging Face id, or the folder of a `config.json`.

        Raises:
            SpecError: the model is described by a JSON file of another name, beside which no engine looks for weights.
        """
        name = self.service.model
        path = PurePath(name)
        if path.suffix != ".json":
            return name
        if path.name != "config.json":
            raise SpecError(
                f"{self.name}: engines load a folder by its config.json, and this is named {path.name!r}; accepted: "
                "a Hugging Face id, a config.json or the folder that holds one",
                field="model",
            )
        return str(path.parent)

    @property
    def instances(self) -> int:
        """Engine instances. The attention replicas of one AFD unit are one instance, data-parallel over them."""
        if self.role is Role.ATTENTION and self.plan.units is not None:
            return self.plan.units
        return self.plan.replicas

    @property
    def replicas_per_instance(self) -> int:
        """Replicas of the plan that one instance runs: 1, or the attention replicas of an AFD unit."""
        return self.plan.replicas // self.instances

    @property
    def dp(self) -> int:
        """Attention data-parallel ranks of one instance."""
        return self.plan.dp * self.replicas_per_instance

    @property
    def instance_gpus(self) -> int:
        """GPUs of one instance."""
        return self.plan.gpus_per_replica * self.replicas_per_instance

    @property
    def nodes(self) -> int:
        """Nodes of one instance; 1 where it shares a node."""
        return math.ceil(self.instance_gpus / self.pool.gpus_per_node)

    @property
    def gpus_on_node(self) -> int:
        """GPUs that one instance takes on each of its nodes.

        Raises:
            SpecError: it does not fill its nodes evenly.
        """
        if self.instance_gpus % self.nodes:
            raise SpecError(
                f"{self.name}: {self.instance_gpus} GPUs of one instance do not divide over {self.nodes} nodes of "
                f"{self.pool.gpus_per_node}; accepted: at most one node, or whole nodes",
                field="gpus_per_replica",
            )
        return self.instance_gpus // self.nodes

    @property
    def sequences(self) -> int:
        """Requests in flight on one instance."""
        return self.plan.batch * self.replicas_per_instance


@dataclass(frozen=True)
class DeploymentLaunch:
    """The components that serve one share of a service's requests together.

    Args:
        name: unique in the plan; a DNS label.
        service: what is served.
        mode: serving mode.
        share: share of the service's requests.
        components: prefill first, then those that decode.
    """

    name: str
    service: Service
    mode: Mode
    share: float
    components: tuple[Component, ...]

    def of(self, role: Role) -> tuple[Component, ...]:
        """The components of one role."""
        return tuple(component for component in self.components if component.role is role)


@dataclass(frozen=True)
class Launch:
    """Everything that a plan asks to be launched.

    Args:
        plan: the plan.
        scenario: the question that it answers.
        pools: the GPU pools by name.
        deployments: of all services, in the order of the plan.
    """

    plan: Plan
    scenario: Scenario
    pools: dict[str, ResolvedPool]
    deployments: tuple[DeploymentLaunch, ...]

    @property
    def components(self) -> tuple[Component, ...]:
        """The components of all deployments."""
        return tuple(component for deployment in self.deployments for component in deployment.components)


_ORDER = (Role.MIXED, Role.PREFILL, Role.DECODE, Role.ATTENTION, Role.FFN)


def launch(plan: Plan) -> Launch:
    """What a plan asks to be launched.

    Raises:
        SpecError: the plan holds nothing to launch, does not carry its scenario, or has several periods.
    """
    if not plan.services:
        raise SpecError(
            f"has nothing to launch: the plan's status is {plan.status.value}; accepted: optimal or feasible",
            field="status",
        )
    scenario = plan.scenario
    if scenario is None:
        raise SpecError(
            "is missing: launch files need the question beside the answer; accepted: a plan written by `cleave plan`",
            field="scenario",
        )
    pools = {pool.name: resolve_pool(pool) for pool in scenario.cluster.pools}
    services = {service.name: service for service in scenario.services}
    names = _Names()
    deployments = []
    for s, planned in enumerate(plan.services):
        for d, deployment in enumerate(planned.deployments):
            if deployment.period:
                raise SpecError(
                    f"is {deployment.period}: launch files are of one period; accepted: 0",
                    field=f"services[{s}].deployments[{d}].period",
                )
            several = len(planned.deployments) > 1
            stem = names.of(planned.name, str(d + 1)) if several else names.of(planned.name)
            deployments.append(_deployment(stem, services[planned.name], deployment, pools, names))
    return Launch(plan, scenario, pools, tuple(deployments))


def longest_request(workload: Workload, model: ModelSpec) -> int:
    """Longest context of a request [tokens], rounded up, and no longer than the model allows.

    Fixed lengths are exact, discrete ones give their largest value, and a length known by mean and deviation
    `LONGEST_DEVIATIONS` deviations above the mean.
    """
    parts = (workload.prefix_tokens, workload.input_tokens, workload.output_tokens)
    longest = sum(_longest(length) for length in parts)
    return min(math.ceil(longest / LENGTH_STEP) * LENGTH_STEP, model.max_context_tokens)


def _longest(length: int | MeanLength | DiscreteLength) -> float:
    if isinstance(length, DiscreteLength):
        return float(max(value for value, weight in zip(length.values, length.weights, strict=True) if weight > 0))
    if isinstance(length, MeanLength):
        return length.mean * (1.0 + LONGEST_DEVIATIONS * length.cv)
    return float(length)


def _deployment(
    name: str, service: Service, deployment: Deployment, pools: dict[str, ResolvedPool], names: _Names
) -> DeploymentLaunch:
    model = catalogue_model(service.model)
    length = longest_request(resolve_workload(service.workload), model)
    counts = Counter(pool.role for pool in deployment.pools)
    seen: Counter[Role] = Counter()
    units: dict[str, int] = {}
    components = []
    for pool in sorted(deployment.pools, key=lambda pool: _ORDER.index(pool.role)):
        seen[pool.role] += 1
        number = units.setdefault(pool.unit, len(units) + 1) if pool.unit is not None else seen[pool.role]
        parts = [name, pool.role.value, *([str(number)] if counts[pool.role] > 1 else [])]
        components.append(
            Component(names.of(*parts), service, model, deployment.mode, pools[pool.gpu_pool], pool, length)
        )
    return DeploymentLaunch(name, service, deployment.mode, deployment.share, tuple(components))


class _Names:
    """Names that are unique in a plan and short enough for every launcher."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, stem: str, *suffixes: str) -> str:
        """The stem with its suffixes, the stem cut and marked by a hash where it is too long or taken."""
        tail = "".join(f"-{suffix}" for suffix in suffixes)
        name = stem + tail
        if len(name) > NAME_LENGTH or name in self._taken:
            mark = hashlib.sha256(f"{name}/{len(self._taken)}".encode()).hexdigest()[:6]
            name = f"{stem[: NAME_LENGTH - len(tail) - 7].rstrip('-')}-{mark}{tail}"
        self._taken.add(name)
        return name
