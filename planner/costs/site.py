"""A service on a GPU pool: everything that the layouts of its workers share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

from planner.costs.analytic import AnalyticKernels
from planner.costs.engines import ENGINES, EngineTraits
from planner.costs.fabric import Collectives, Fabric
from planner.costs.kernels import Kernels
from planner.costs.lengths import Lengths
from planner.costs.sides import AttentionSide, ExpertSide, moe_ffn
from planner.kernels.library import MeasuredKernels
from planner.kernels.user_table import UserKernels
from specs.catalog import model as catalogue_model
from specs.model import ModelSpec, MoeFfn
from specs.scenario import ResolvedPool
from specs.service import KernelSource, Service
from specs.workload import Workload, resolve_workload


@dataclass(frozen=True, eq=False)
class Site:
    """One service on one GPU pool.

    Args:
        service: the service.
        workload: its requests.
        model: its model.
        pool: the pool with every value resolved.
        kernels: operator times on the pool's GPU.
        fabric: links of the pool.
        engine: traits of the service's engine.
    """

    service: Service
    workload: Workload
    model: ModelSpec
    pool: ResolvedPool
    kernels: Kernels
    fabric: Fabric
    engine: EngineTraits
    _attention: dict[int, AttentionSide] = field(default_factory=dict, repr=False)
    _experts: dict[tuple[int, int, int], ExpertSide] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(
        service: Service,
        pool: ResolvedPool,
        *,
        kernel_slowdown: float = 1.0,
        network_slowdown: float = 1.0,
        libraries: tuple[UserKernels, ...] = (),
    ) -> Site:
        """The site of a service on a pool.

        Args:
            service: the service.
            pool: the resolved pool.
            kernel_slowdown: factor on every kernel time (1.3: 30% slower).
            network_slowdown: factor on every communication time.
            libraries: the user's tables, which are asked before the measured and the analytic ones.
        """
        analytic = AnalyticKernels(pool.gpu, slowdown=kernel_slowdown)
        shipped: tuple[MeasuredKernels, ...] = ()
        collectives: Collectives | None = None
        if service.kernels is KernelSource.MEASURED:
            shipped = (MeasuredKernels(pool.gpu, service.engine, slowdown=kernel_slowdown),)
            collectives = shipped[0].collectives
        for library in reversed(libraries):
            collectives = library.collectives(collectives)
        return Site(
            service,
            resolve_workload(service.workload),
            catalogue_model(service.model),
            pool,
            Kernels([*libraries, *shipped, analytic]),
            Fabric.of(pool, slowdown=network_slowdown, collectives=collectives),
            ENGINES[service.engine],
        )

    def traced(self) -> Site:
        """The same site with nothing asked for yet, so that it tells what the layouts computed on it ask for."""
        return replace(
            self, kernels=self.kernels.traced(), fabric=replace(self.fabric, is_traced=True), _attention={}, _experts={}
        )

    @cached_property
    def lengths(self) -> Lengths:
        """Token counts of the requests."""
        return Lengths.of(self.workload)

    @property
    def queries(self) -> int:
        """Tokens that one sequence brings to a decode step."""
        speculative = self.service.speculative
        return 1 + speculative.draft_tokens if speculative else 1

    @property
    def tokens_per_step(self) -> float:
        """Tokens that one decode step produces for one sequence."""
        speculative = self.service.speculative
        return speculative.accept_length if speculative else 1.0

    @cached_property
    def moe(self) -> MoeFfn | None:
        """The model's MoE block, or None."""
        return moe_ffn(self.model)

    def attention(self, tp: int) -> AttentionSide:
        """The attention side on `tp` ranks."""
        if tp not in self._attention:
            self._attention[tp] = AttentionSide(
                self.model,
                tp,
                self.service.precision,
                self.service.kv_cache_dtype,
                self.kernels,
                self.fabric,
                self.queries,
            )
        return self._attention[tp]

    def experts(self, ep: int, moe_tp: int, expert_slots: int) -> ExpertSide:
        """The routed experts over `ep x moe_tp` GPUs."""
        key = (ep, moe_tp, expert_slots)
        if key not in self._experts:
            self._experts[key] = ExpertSide(
                self.model,
                ep,
                moe_tp,
                expert_slots,
                self.service.precision,
                self.service.skew,
                self.kernels,
                draft=self.queries > 1,
            )
        return self._experts[key]

    @cached_property
    def memory_bytes(self) -> float:
        """Device memory for weights, cache and activations on one GPU."""
        return self.pool.gpu.memory_bytes * self.engine.memory_fraction - self.engine.reserve_bytes

    @property
    def has_prefix(self) -> bool:
        """Whether requests read a cached prefix."""
        return self.lengths.prefix > 0

    def prefix_sharers(self) -> float:
        """Requests that share one copy of the prefix: 1 for none, inf for all."""
        sharing = self.workload.prefix_sharing
        if sharing == "none":
            return 1.0
        return math.inf if sharing == "all" else float(sharing)
