"""The question: a cluster, the services on it and the objective."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from specs.base import Spec
from specs.errors import SpecError
from specs.hardware import GpuSpec
from specs.objective import Objective
from specs.quantities import AS_REAL, Bandwidth, Count, Microseconds, Name, at_most
from specs.service import Service

SCENARIO_SCHEMA = "cleave.scenario/1"
MAX_POOLS = 1000
MAX_SERVICES = 1000


class Pool(Spec):
    """GPUs of one type on one fabric. What is left out comes from the catalogue (see `resolve_pool`)."""

    name: Name
    gpu: str = Field(min_length=1, max_length=200)
    """Id or alias of the catalogue."""
    count: Count
    gpus_per_node: Count | None = None
    scale_up_domain: Count | None = None
    """GPUs that reach one another at scale-up speed."""
    scale_up_gbyte_per_s: Bandwidth | None = None
    """Per GPU and per direction."""
    scale_up_latency_us: Microseconds | None = None
    scale_out_gbit_per_s: Bandwidth | None = None
    """Per GPU and per direction."""
    scale_out_latency_us: Microseconds | None = None
    nics_per_node: Count | None = None
    oversubscription: Annotated[float, Field(strict=True, ge=1, le=100), AS_REAL] = 1.0
    """Leaf downlink over uplink bandwidth."""
    power_w_per_gpu: Annotated[float, Field(strict=True, gt=0, le=1e5), AS_REAL] | None = None
    cost_per_gpu_hour: Annotated[float, Field(strict=True, gt=0, le=1e5), AS_REAL] | None = None


class Cluster(Spec):
    """The GPUs there are."""

    pools: Annotated[tuple[Pool, ...], Field(min_length=1, max_length=MAX_POOLS), at_most(MAX_POOLS)]

    @model_validator(mode="after")
    def _check(self) -> "Cluster":
        _refuse_repeated((pool.name for pool in self.pools), "pools")
        return self


class Scenario(Spec):
    """What is asked."""

    schema_id: Literal["cleave.scenario/1"] = Field(alias="schema")
    cluster: Cluster
    services: Annotated[tuple[Service, ...], Field(min_length=1, max_length=MAX_SERVICES), at_most(MAX_SERVICES)]
    objective: Objective

    @model_validator(mode="after")
    def _check(self) -> "Scenario":
        _refuse_repeated((service.name for service in self.services), "services")
        pools = [pool.name for pool in self.cluster.pools]
        for s, service in enumerate(self.services):
            for p, name in enumerate(service.limits.pools or ()):
                if name not in pools:
                    raise SpecError(
                        f"unknown pool {name!r}; the cluster has {', '.join(pools)}",
                        field=f"services[{s}].limits.pools[{p}]",
                    )
            if not self.objective.maximizing and service.demand_rps is None:
                raise SpecError(
                    f"is required of every service when {self.objective.quantity} is minimised, "
                    f"and service {service.name!r} has none: a positive number of requests/s",
                    field=f"services[{s}].demand_rps",
                )
        return self

    def to_json(self) -> str:
        """Return the scenario as JSON text, every default written out."""
        return self.model_dump_json(by_alias=True, indent=2, exclude_none=True)


class ResolvedPool(Spec):
    """A pool with every value concrete: what the scenario says, else what the catalogue says of its GPU.

    In a pool smaller than a node, or than a domain, these are as small as the pool, so that a pool of one node or one
    domain always has one.
    """

    name: str
    gpu: GpuSpec
    count: int
    gpus_per_node: int
    scale_up_domain: int
    scale_up_gbyte_per_s: float
    scale_up_latency_us: float
    scale_out_gbit_per_s: float
    scale_out_latency_us: float
    nics_per_node: int
    oversubscription: float
    power_w_per_gpu: float
    cost_per_gpu_hour: float

    @property
    def nodes(self) -> int:
        """Nodes of the pool."""
        return self.count // self.gpus_per_node


def resolve_pool(pool: Pool) -> ResolvedPool:
    """Complete a pool from the catalogue.

    A pool that overrides `gpus_per_node` alone moves the scale-up domain with it where the catalogue's domain is one
    node. NICs default to one per GPU.

    Raises:
        SpecError: unknown GPU, or node, domain and count that contradict one another; `field` is relative to the pool.

    """
    # Imported here so that models of scenarios do not load the catalogue.
    from specs import catalog

    try:
        gpu = catalog.gpu(pool.gpu)
    except SpecError as error:
        raise SpecError(error.message, field="gpu") from error
    node = pool.gpus_per_node or gpu.gpus_per_node
    domain = pool.scale_up_domain or (node if gpu.scale_up_domain == gpu.gpus_per_node else gpu.scale_up_domain)
    if domain % node:
        field = "scale_up_domain" if pool.scale_up_domain else "gpus_per_node"
        accepted = (
            f"gpus_per_node = {node} or a multiple of it, got {domain}"
            if pool.scale_up_domain
            else f"a divisor of scale_up_domain = {domain}, got {node}"
        )
        raise SpecError(f"must be {accepted}", field=field)
    if pool.count > node and pool.count % node:
        below, above = pool.count // node * node, -(-pool.count // node) * node
        raise SpecError(
            f"must be at most one node of {node} GPUs or a multiple of it (such as {below} or {above}), "
            f"got {pool.count}",
            field="count",
        )
    return ResolvedPool(
        name=pool.name,
        gpu=gpu,
        count=pool.count,
        gpus_per_node=min(node, pool.count),
        scale_up_domain=min(domain, pool.count),
        scale_up_gbyte_per_s=_given(pool.scale_up_gbyte_per_s, gpu.scale_up_gbyte_per_s),
        scale_up_latency_us=_given(pool.scale_up_latency_us, gpu.scale_up_latency_us),
        scale_out_gbit_per_s=_given(pool.scale_out_gbit_per_s, gpu.scale_out_gbit_per_s),
        scale_out_latency_us=_given(pool.scale_out_latency_us, gpu.scale_out_latency_us),
        nics_per_node=pool.nics_per_node or min(node, pool.count),
        oversubscription=pool.oversubscription,
        power_w_per_gpu=_given(pool.power_w_per_gpu, gpu.power_w),
        cost_per_gpu_hour=_given(pool.cost_per_gpu_hour, gpu.cost_per_gpu_hour),
    )


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _refuse_repeated(names: Iterable[str], field: str) -> None:
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            raise SpecError(f"{name!r} is taken; every name must be its own", field=f"{field}[{i}].name")
        seen.add(name)
