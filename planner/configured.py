"""A configuration on its GPUs: sites, servers, slots and chunks, and what cannot be launched."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from planner.costs.afd import AfdUnit
from planner.costs.engines import ENGINES, EngineTraits
from planner.costs.layout import Layout
from planner.costs.site import Site
from planner.costs.worker import Worker
from planner.kernels.calibration import NOT_CALIBRATED, Calibration
from planner.options.decode import DECODE_STEP_TOKENS
from planner.options.layouts import expert_slots, fits_domains, heads_divide, widths_divide
from planner.options.server import AfdServer, Server, WorkerServer
from planner.options.targets import Targets
from planner.pools import worker_pool
from planner.reevaluate import server_of
from planner.space import ServiceSpace
from specs import catalog
from specs.errors import SpecError
from specs.plan import PoolPlan, Role
from specs.prediction import AttentionLayout, Configuration, FfnLayout, Gpu, Memory, WorkerLayout
from specs.quantities import MAX_MS
from specs.scenario import Pool, ResolvedPool, resolve_pool
from specs.service import Engine, Service, Slo
from specs.workload import Workload, resolve_workload

DEFAULT_MICROBATCHES = 2

LATEST = Slo(ttft_ms=MAX_MS, tpot_ms=MAX_MS)
"""A prediction asks for no SLO."""


class SiteCache:
    """Sites by model, GPU and engine, so that many configurations share kernels and operators.

    Args:
        calibration: the user's kernel tables.
        engines: traits of the engines.
    """

    def __init__(
        self, calibration: Calibration = NOT_CALIBRATED, engines: Mapping[Engine, EngineTraits] = ENGINES
    ) -> None:
        self.calibration = calibration
        self.engines = engines
        self._sites: dict[tuple[object, ...], Site] = {}

    def site(self, service: Service, pool: ResolvedPool) -> Site:
        """The site of a service on a pool, on operators that are built once."""
        key = (
            service.model,
            service.precision,
            service.kv_cache_dtype,
            service.engine,
            service.kernels,
            service.skew,
            service.speculative,
            pool.model_dump_json(),
        )
        if key not in self._sites:
            self._sites[key] = Site.of(service, pool, libraries=self.calibration.on(pool.gpu))
        engine = self.engines[service.engine]
        return replace(self._sites[key], service=service, workload=resolve_workload(service.workload), engine=engine)

    def traced_site(self, service: Service, pool: ResolvedPool) -> Site:
        """The same, which shares the kernels and tells what it alone is asked for; its operators are built again."""
        return self.site(service, pool).traced()

    def with_engines(self, engines: Mapping[Engine, EngineTraits]) -> SiteCache:
        """A cache on the same operators whose engines have other traits."""
        other = SiteCache(self.calibration, engines)
        other._sites = self._sites
        return other


@dataclass(frozen=True, eq=False)
class Part:
    """One kind of server of a configuration.

    Args:
        role: MIXED for whatever serves whole requests.
        server: one worker or one AFD unit.
        count: workers or units.
        slots: requests in flight of one (attention) replica, prompts per step of a prefill worker; 0 where memory does
            not hold one.
        chunks: equal chunks of a prompt; 0 without prefill.
        step_tokens: most new tokens of one step and (attention) replica, over all its DP ranks.
        memory: of one GPU, by role.
        pools: as a plan writes them, with utilisation 1; empty without slots.
        held_slots: slots that memory would hold.
    """

    role: Role
    server: Server
    count: int
    slots: int
    chunks: int
    step_tokens: int
    memory: dict[Role, Memory]
    pools: tuple[PoolPlan, ...]
    held_slots: int

    @property
    def copies(self) -> int:
        """Replicas of one server that share a queue."""
        return int(self.server.copies[0])


@dataclass(frozen=True, eq=False)
class Setup:
    """A configuration on its GPUs.

    Args:
        configuration: as given.
        space: the service on its sites; it has no options.
        parts: one that serves whole requests, or prefill and decode.
        gpus: of all replicas.
    """

    configuration: Configuration
    space: ServiceSpace
    parts: tuple[Part, ...]
    gpus: int

    @staticmethod
    def of(configuration: Configuration, site_of: Callable[[Service, ResolvedPool], Site]) -> Setup:
        """Set a configuration up.

        Args:
            configuration: as given.
            site_of: the site of a service on a pool.

        Raises:
            SpecError: an unknown GPU, model or workload, or a layout that cannot be launched, with its field.
        """
        workload = _workload(configuration)
        service = Service(
            name="prediction",
            model=configuration.model,
            precision=configuration.precision,
            kv_cache_dtype=configuration.kv_cache_dtype,
            engine=configuration.engine,
            kernels=configuration.kernels,
            workload=workload,
            slo=LATEST.model_copy(update={"statistic": configuration.statistic}),
            speculative=configuration.speculative,
            routing_skew=configuration.routing_skew,
        )
        try:
            catalog.model(configuration.model)
        except SpecError as error:
            raise SpecError(str(error) if error.file else error.message, field="model") from error
        pools = _pools(configuration)
        by_name = {pool.name: site_of(service, pool) for pool in pools.values()}
        at = {field: by_name[pool.name] for field, pool in pools.items()}
        space = ServiceSpace(0, service, tuple(by_name.values()), Targets.of(service, workload), workers=(), units=())
        clients = workload.arrival.concurrency
        parts: list[Part] = []
        if configuration.prefill is not None:
            parts.append(_prefill(configuration.prefill, at["prefill"]))
        if configuration.worker is not None:
            parts.append(_worker(configuration.worker, at["worker"], "worker", Role.MIXED, clients))
        if configuration.decode is not None:
            parts.append(_worker(configuration.decode, at["decode"], "decode", Role.DECODE, clients))
        if configuration.attention is not None and configuration.ffn is not None:
            role = Role.MIXED if configuration.prefill is None else Role.DECODE
            microbatches = configuration.microbatches or DEFAULT_MICROBATCHES
            parts.append(_unit(configuration.attention, configuration.ffn, microbatches, at, role, clients))
        gpus = sum(layout.replicas * layout.gpus for layout in configuration.servers.values())
        return Setup(configuration, space, tuple(parts), gpus)


def _workload(configuration: Configuration) -> Workload:
    try:
        workload = resolve_workload(configuration.workload)
    except SpecError as error:
        raise SpecError(error.message, field="workload") from error
    configuration.check_load(workload)
    return workload


def _pools(configuration: Configuration) -> dict[str, ResolvedPool]:
    """The pool of each server's field. GPUs named by their id come in as many whole domains as are needed."""
    pools: dict[str, Pool] = {}
    needed: Counter[str] = Counter()
    chosen: dict[str, str] = {}
    fields: dict[str, str] = {}
    domains: dict[str, int] = {}
    for field, layout in configuration.servers.items():
        where = "gpu" if layout.gpu is None else f"{field}.gpu"
        gpu = configuration.gpu if layout.gpu is None else layout.gpu
        pool = _pool(gpu, where)
        if not isinstance(gpu, Pool):
            domains[pool.name] = pool.count
        if pools.setdefault(pool.name, pool) != pool:
            raise SpecError(f"pool {pool.name!r} is described twice, differently", field=where)
        needed[pool.name] += layout.replicas * layout.gpus
        chosen[field], fields[pool.name] = pool.name, where
    resolved = {}
    for name, pool in pools.items():
        where, wanted = fields[name], needed[name]
        if name in domains:
            pool = pool.model_copy(update={"count": math.ceil(wanted / domains[name]) * domains[name]})
        elif wanted > pool.count:
            raise SpecError(
                f"must be at least the {wanted} GPUs of the servers, got {pool.count}", field=f"{where}.count"
            )
        try:
            resolved[name] = resolve_pool(pool)
        except SpecError as error:
            raise SpecError(error.message, field=f"{where}.{error.field}") from error
    return {field: resolved[name] for field, name in chosen.items()}


def _pool(gpu: Gpu, where: str) -> Pool:
    """The pool itself, or one scale-up domain of a GPU of the catalogue, named after it."""
    if isinstance(gpu, Pool):
        return gpu
    try:
        found = catalog.gpu(gpu)
    except SpecError as error:
        raise SpecError(error.message, field=where) from error
    return Pool(name=found.id, gpu=found.id, count=found.scale_up_domain)


# -- workers -----------------------------------------------------------------------------------------------------------


def _layout(given: WorkerLayout, site: Site, field: str) -> Layout:
    """The layout of a worker.

    Raises:
        SpecError: it cannot be launched.
    """
    ep, moe_tp = given.expert_parallel, given.expert_tensor_parallel
    _check_heads(site, given.tp, f"{field}.tp")
    if given.gpus > site.pool.gpus_per_node and not fits_domains(site, given.gpus):
        raise SpecError(
            f"a replica of {given.gpus} GPUs must fill whole nodes of {site.pool.gpus_per_node}, and beyond a scale-up "
            f"domain of {site.pool.scale_up_domain} whole domains",
            field=f"{field}.tp",
        )
    if given.pp > site.model.layer_count:
        raise SpecError(
            f"must be at most the model's {site.model.layer_count} layers, got {given.pp}", field=f"{field}.pp"
        )
    if given.dp > 1 and given.tp > 1 and not site.engine.data_parallel_tensor_parallel:
        raise SpecError(
            f"{site.service.engine.value} cannot combine attention data parallelism with tensor parallelism: dp or tp "
            "must be 1",
            field=f"{field}.dp",
        )
    if site.moe is None:
        if given.dp > 1:
            raise SpecError("must be 1 for a dense model, whose data parallelism is more replicas", field=f"{field}.dp")
        if ep > 1:
            raise SpecError(f"must be 1 for a dense model, got {ep}", field=f"{field}.ep")
        if given.expert_slots:
            raise SpecError("must be left out for a dense model", field=f"{field}.expert_slots")
        _check_widths(site, given.tp, 1, f"{field}.tp")
        return Layout(given.tp, 1, 1, given.tp, given.pp)
    if moe_tp > site.pool.scale_up_domain or (ep == 1 and given.tp * given.dp > site.pool.scale_up_domain):
        raise SpecError(
            f"the shards of one expert must lie in one scale-up domain of {site.pool.scale_up_domain} GPUs, got "
            f"moe_tp = {moe_tp}",
            field=f"{field}.moe_tp",
        )
    _check_widths(site, given.tp, moe_tp, f"{field}.moe_tp")
    slots = _expert_slots(given.expert_slots, site.moe.experts, ep, field)
    return Layout(given.tp, given.dp, ep, moe_tp, given.pp, slots, given.overlap)


def _check_heads(site: Site, tp: int, field: str) -> None:
    if not heads_divide(site, tp):
        raise SpecError(f"the attention heads of {site.model.id} do not divide over {tp} ranks", field=field)
    if tp > site.pool.scale_up_domain:
        raise SpecError(f"must be at most a scale-up domain of {site.pool.scale_up_domain} GPUs, got {tp}", field=field)


def _check_widths(site: Site, tp: int, moe_tp: int, field: str) -> None:
    if not widths_divide(site, tp, moe_tp):
        raise SpecError(f"the FFN widths of {site.model.id} do not divide over tp {tp}, moe_tp {moe_tp}", field=field)


def _expert_slots(given: int | None, experts: int, ep: int, field: str) -> int:
    if given is None:
        slots = expert_slots(experts, ep)
        if slots is None:
            raise SpecError(f"{experts} experts do not divide over {ep} ranks", field=f"{field}.ep")
        return slots
    if given % ep or given < experts:
        raise SpecError(
            f"must be a multiple of ep = {ep} and at least the model's {experts} experts, got {given}",
            field=f"{field}.expert_slots",
        )
    return given


def _worker(given: WorkerLayout, site: Site, field: str, role: Role, clients: int | None) -> Part:
    """Workers that serve whole requests or only decode."""
    layout = _layout(given, site, field)
    worker = Worker(site, layout)
    server = WorkerServer(worker)
    chunks = 0 if role is Role.DECODE else _chunks(site, given.chunk_tokens, layout.dp)
    step_tokens = site.lengths.input / chunks if chunks else DECODE_STEP_TOKENS
    held = worker.largest_slots(step_tokens, decode=True)
    slots = _slots(held, given.batch, clients, given.replicas)
    on_rank = math.ceil(max(slots, 1) / layout.dp)
    memory = _memory(
        site,
        worker.weight_bytes,
        worker.reservation(decode=True).bytes(on_rank),
        worker.activation_bytes(step_tokens),
    )
    pools = (worker_pool(worker, role, given.replicas, slots, chunks),) if slots else ()
    budget = given.chunk_tokens or site.engine.step_budget(layout.dp)
    return Part(role, server, given.replicas, slots, chunks, budget, {role: memory}, pools, held)


def _prefill(given: WorkerLayout, site: Site) -> Part:
    """Workers that compute prompts."""
    layout = _layout(given, site, "prefill")
    worker = Worker(site, layout)
    prompts = given.batch or layout.dp
    on_rank = math.ceil(prompts / layout.dp)
    chunks = _chunks(site, given.chunk_tokens, min(prompts, layout.dp), prompts)
    step_tokens = on_rank * site.lengths.input / chunks
    held = worker.largest_slots(step_tokens, decode=False)
    slots = prompts if held >= on_rank * layout.dp else 0
    memory = _memory(
        site,
        worker.weight_bytes,
        worker.reservation(decode=False).bytes(on_rank),
        worker.activation_bytes(step_tokens),
    )
    pools = (worker_pool(worker, Role.PREFILL, given.replicas, slots, chunks),) if slots else ()
    server, budget = WorkerServer(worker), given.chunk_tokens or site.engine.step_budget(layout.dp)
    return Part(Role.PREFILL, server, given.replicas, slots, chunks, budget, {Role.PREFILL: memory}, pools, held)


def _chunks(site: Site, tokens: int | None, lanes: int, prompts: int | None = None) -> int:
    """Chunks of a prompt where a step computes `tokens` new tokens of `prompts` prompts, by default one per lane."""
    budget = site.engine.step_budget(lanes) if tokens is None else tokens
    return max(1, math.ceil((lanes if prompts is None else prompts) * site.lengths.input / budget))


def _slots(held: int, batch: int | None, clients: int | None, replicas: int) -> int:
    """Slots of one replica: no more than memory holds, than were asked for, and than there are clients."""
    slots = held if batch is None else min(held, batch)
    return slots if clients is None else min(slots, math.ceil(clients / replicas))


# -- AFD units ---------------------------------------------------------------------------------------------------------


def _unit(
    attention: AttentionLayout,
    ffn: FfnLayout,
    microbatches: int,
    at: dict[str, Site],
    role: Role,
    clients: int | None,
) -> Part:
    """AFD units."""
    near, far = at["attention"], at["ffn"]
    moe = near.moe
    if moe is None:
        raise SpecError("a dense model has no experts to disaggregate", field="ffn")
    _check_heads(near, attention.tp, "attention.tp")
    _check_widths(near, attention.tp, ffn.moe_tp, "attention.tp")
    if ffn.gpus > far.pool.gpus_per_node and not fits_domains(far, ffn.gpus):
        raise SpecError(
            f"an FFN replica of {ffn.gpus} GPUs must fill whole nodes of {far.pool.gpus_per_node}, and beyond a "
            f"scale-up domain of {far.pool.scale_up_domain} whole domains",
            field="ffn.ep",
        )
    experts = _expert_slots(ffn.expert_slots, moe.experts, ffn.ep, "ffn")
    units = ffn.replicas
    attention_pool = PoolPlan(
        role=Role.ATTENTION,
        gpu_pool=near.pool.name,
        replicas=attention.replicas,
        gpus_per_replica=attention.tp,
        tp=attention.tp,
        batch=1,
        microbatches=microbatches,
        utilisation=1.0,
        unit="unit-1",
        units=units,
    )
    ffn_pool = PoolPlan(
        role=Role.FFN,
        gpu_pool=far.pool.name,
        replicas=units,
        gpus_per_replica=ffn.gpus,
        ep=ffn.ep,
        moe_tp=ffn.moe_tp,
        expert_slots=experts,
        batch=1,
        microbatches=microbatches,
        utilisation=1.0,
        unit="unit-1",
        units=units,
    )
    server = server_of((attention_pool, ffn_pool), (near, far))
    assert isinstance(server, AfdServer)
    unit: AfdUnit = server.unit
    copies = int(server.copies[0])
    chunks = 0 if role is Role.DECODE else _chunks(near, attention.chunk_tokens, 1)
    step_tokens = near.lengths.input / chunks if chunks else DECODE_STEP_TOKENS
    held = int(server.slots_cap(np.array([step_tokens]))[0])
    slots = _slots(held, attention.batch, clients, attention.replicas)
    memory = {
        Role.ATTENTION: _memory(
            near,
            unit.attention_weight_bytes,
            unit.reservation().bytes(max(slots, 1)),
            unit.attention.activation_bytes(step_tokens),
        ),
        Role.FFN: _memory(far, unit.ffn_weight_bytes, 0.0, float(unit.ffn_activation_bytes(copies * step_tokens))),
    }
    pools: tuple[PoolPlan, ...] = ()
    if slots:
        chunk = math.ceil(near.lengths.input / chunks) if chunks else 0
        pools = (
            attention_pool.model_copy(update={"batch": slots, "chunk_tokens": chunk}),
            ffn_pool.model_copy(update={"batch": slots * copies, "chunk_tokens": chunk * copies}),
        )
    budget = attention.chunk_tokens or near.engine.step_budget(1)
    return Part(role, server, units, slots, chunks, budget, memory, pools, held)


def _memory(site: Site, weights: float, kv: float, activations: float) -> Memory:
    return Memory(
        available=site.memory_bytes,
        weights=weights,
        kv=kv,
        activations=activations,
        free=site.memory_bytes - weights - kv - activations,
    )
