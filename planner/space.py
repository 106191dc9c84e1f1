"""The declared space: every option of every service, mode and role of a scenario."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from formulations.table import Role
from planner.clock import UNLIMITED, Clock
from planner.costs.sides import ACTIVATION_BYTES
from planner.costs.site import Site
from planner.costs.worker import Worker, dispatch_bytes
from planner.kernels.calibration import NOT_CALIBRATED, Calibration
from planner.launchable import Launchable, decoding_role
from planner.options.block import Family, OptionBlock
from planner.options.decode import NO_LEVEL, DecodeSide, Level
from planner.options.layouts import DECODING_PIPELINE_DEGREES, afd_units, layouts
from planner.options.prefill import NO_TRANSFER, PrefillSide, Transfer
from planner.options.serve import Rival, serve_options
from planner.options.server import AfdServer, Server, WorkerServer
from planner.options.targets import Targets
from specs.model import MoeFfn
from specs.plan import Role as PoolRole
from specs.scenario import ResolvedPool, Scenario, resolve_pool
from specs.service import Mode, Phase, Service
from specs.workload import ArrivalProcess

FIRST_LEVELS = 2
"""TTFT levels that a P/D mode starts with; `planner.solve` adds more where the proof needs them."""


@dataclass(frozen=True)
class Slowdown:
    """Factors on kernel and communication times, for sensitivity studies (1.3: 30% slower)."""

    kernels: float = 1.0
    network: float = 1.0


FULL_SPEED = Slowdown()


@dataclass(frozen=True, eq=False)
class Group:
    """Options of one service, mode and role.

    Args:
        service: index of the service.
        mode: serving mode.
        role: what the options do for a request.
        block: the options.
    """

    service: int
    mode: Mode
    role: Role
    block: OptionBlock


@dataclass(frozen=True, eq=False)
class ModeOptions:
    """Options of one service in one mode, for a plan and for a bound.

    Args:
        exact: every path through them meets TTFT.
        optimistic: prefill at each level has the budget of the level's lower end, so that no plan with finer levels is
            better than the best of these.
        levels: the TTFT levels.
        given_up_rps: bound on the rate of a mode without options because another one reaches more; else 0.
    """

    exact: tuple[Group, ...]
    optimistic: tuple[Group, ...]
    levels: tuple[Level, ...]
    given_up_rps: float = 0.0


@dataclass(frozen=True, eq=False)
class ServiceSpace:
    """What one service may run on.

    Args:
        index: of the service in the scenario.
        service: the service.
        sites: the service on each pool that it may use.
        targets: SLO and arrivals.
        workers: colocated workers whose weights fit.
        units: AFD units of every pair of pools; of a launchable service those that can be launched.
        rejected: refused options by reason, per mode.
        launch: what its engine can launch; None where the service does not ask.
        unlaunchable_units: AFD units that cannot be launched, by rule.
    """

    index: int
    service: Service
    sites: tuple[Site, ...]
    targets: Targets
    workers: tuple[Worker, ...]
    units: tuple[AfdServer, ...]
    rejected: dict[Mode, Counter[str]] = field(default_factory=dict)
    launch: Launchable | None = None
    unlaunchable_units: Counter[str] = field(default_factory=Counter)
    _prefill: dict[tuple[bool, tuple[Worker, ...]], tuple[PrefillSide, Counter[str]]] = field(
        default_factory=dict, repr=False
    )

    @staticmethod
    def of(
        index: int, service: Service, pools: Sequence[ResolvedPool], slowdown: Slowdown, calibration: Calibration
    ) -> ServiceSpace:
        """Enumerate the layouts of one service."""
        allowed = service.limits.pools
        sites = tuple(
            Site.of(
                service,
                pool,
                kernel_slowdown=slowdown.kernels,
                network_slowdown=slowdown.network,
                libraries=calibration.on(pool.gpu, slowdown=slowdown.kernels),
            )
            for pool in pools
            if allowed is None or pool.name in allowed
        )
        rejected = {mode: Counter[str]() for mode in service.modes}
        shared = Counter[str]()
        colocated = any(mode is not Mode.AFD for mode in service.modes)
        workers = tuple(
            Worker(site, layout) for site in sites for layout in (layouts(site, shared) if colocated else ())
        )
        units: list[AfdServer] = []
        launch = Launchable.of(service, sites[0].model) if service.launchable else None
        unlaunchable = Counter[str]()
        with_units = [mode for mode in (Mode.AFD, Mode.PREFILL_DECODE_AFD) if mode in service.modes]
        if launch is not None:
            with_units = [mode for mode in with_units if launch.mode(mode, [site.pool for site in sites]) is None]
        if with_units:
            afd = Counter[str]()
            every = (unit for a in sites for f in sites for unit in afd_units(a, f, afd))
            if launch is None:
                units = list(every)
            else:
                units = [kept for unit in every if (kept := launch.units(unit, unlaunchable)) is not None]
            for mode in (Mode.AFD, Mode.PREFILL_DECODE_AFD):
                if mode in rejected:
                    rejected[mode].update(afd)
        for mode, counter in rejected.items():
            if mode is not Mode.AFD:
                counter.update(shared)
        targets = Targets.of(service, sites[0].workload)
        return ServiceSpace(index, service, sites, targets, workers, tuple(units), rejected, launch, unlaunchable)

    @property
    def moves_prefix_to(self) -> frozenset[str]:
        """Sides that the prefix must be transferred to: those where it is not resident."""
        site = self.sites[0]
        if not site.has_prefix:
            return frozenset()
        return frozenset({"prefill", "decode"}) - frozenset(site.workload.prefix_at)

    @property
    def closed_loop(self) -> bool:
        """Whether clients wait for their answers, so that the time of requests in flight counts."""
        return self.sites[0].workload.arrival.process is ArrivalProcess.CLOSED_LOOP

    def transfer(self) -> Transfer:
        """KV transfer from prefill to decode; cache bytes do not depend on the pool."""
        site = self.sites[0]
        side, lengths = site.attention(1), site.lengths
        whole = side.kv_bytes(lengths.prefix + lengths.input)
        prefix = side.kv_bytes(lengths.prefix)
        setup_us = max(s.fabric.setup_us + s.fabric.scale_out_latency_us for s in self.sites)
        return Transfer(
            bytes_per_request=whole if "decode" in self.moves_prefix_to else whole - prefix,
            prefix_bytes=prefix if "prefill" in self.moves_prefix_to else 0.0,
            setup_ms=setup_us * 1e-3,
            overlap=site.engine.transfer_overlap == "chunk",
        )

    def prefix_load_ms(self, server: Server) -> float:
        """Time to bring one prompt's prefix to a server that serves whole requests."""
        site = server.site
        if not site.has_prefix:
            return 0.0
        share = site.attention(1).kv_bytes(site.lengths.prefix) / server.links
        if not site.workload.prefix_at:
            return share / site.fabric.scale_out_bytes_per_ms
        if site.workload.prefix_tier == "host":
            return share / site.fabric.host_bytes_per_ms
        return 0.0

    # -- groups by mode ------------------------------------------------------------------------------------------

    def groups(
        self, mode: Mode, *, prune: bool = True, rival: Rival | None = None, clock: Clock = UNLIMITED
    ) -> ModeOptions | HandOver:
        """The options of a mode: at once, or for levels to be chosen where requests are handed over.

        Args:
            mode: serving mode.
            prune: whether servers may be dropped by bounds before their batches are known.
            rival: what another mode reaches; a mode that serves whole requests gives up where it cannot reach that.
            clock: looked at between servers.

        Raises:
            OutOfTimeError: the clock ran out first.
        """
        rejected = self.rejected[mode]
        blocked = self.launch.mode(mode, [site.pool for site in self.sites]) if self.launch is not None else None
        if blocked is not None:
            rejected[blocked] += 1
            return ModeOptions((), (), (NO_LEVEL,))
        phase = self.service.phase
        if mode in (Mode.PREFILL_DECODE, Mode.PREFILL_DECODE_AFD):
            if phase is Phase.FULL:
                return HandOver.of(self, mode, prune=prune, clock=clock)
            rejected[f"phase {phase.value} alone needs no hand-over: mode aggregated or afd covers it"] += 1
            return ModeOptions((), (), (NO_LEVEL,))
        if phase is Phase.PREFILL:
            workers = self.prefill_workers(mode, rejected) if mode is Mode.AGGREGATED else ()
            side = PrefillSide(workers, self.targets, NO_TRANSFER, rejected, prune=prune, clock=clock)
            block = side.at([NO_LEVEL], [self.targets.ttft_ms], clock)
        elif phase is Phase.DECODE:
            servers = self.servers(mode, rejected)
            block = DecodeSide(servers, self.targets, 0.0, rejected, prune=prune, clock=clock).at([NO_LEVEL], clock)
        else:
            servers = self.servers(mode, rejected)
            block, given_up = serve_options(
                servers, self.targets, self.prefix_load_ms, rejected, prune=prune, rival=rival, clock=clock
            )
            alone = (Group(self.index, mode, Role.SERVE, block),)
            return ModeOptions(alone, alone, (NO_LEVEL,), given_up)
        alone = (Group(self.index, mode, Role.SERVE, block),)
        return ModeOptions(alone, alone, (NO_LEVEL,))

    def prefill_side(self, mode: Mode, *, prune: bool, clock: Clock = UNLIMITED) -> tuple[PrefillSide, Counter[str]]:
        """Prefill options, which the P/D modes share where the same workers launch, and what was refused among them."""
        by_rule = Counter[str]()
        workers = self.prefill_workers(mode, by_rule)
        key = prune, workers
        if key not in self._prefill:
            refused = Counter[str]()
            side = PrefillSide(workers, self.targets, self.transfer(), refused, prune=prune, clock=clock)
            self._prefill[key] = side, refused
        side, refused = self._prefill[key]
        return side, refused + by_rule

    def prefill_workers(self, mode: Mode, rejected: Counter[str] | None = None) -> tuple[Worker, ...]:
        """Workers that may compute prompts alone; what cannot be launched is counted in `rejected`."""
        return tuple(worker for worker in self.workers if self._launches(mode, PoolRole.PREFILL, worker, rejected))

    def _launches(self, mode: Mode, role: PoolRole, worker: Worker, rejected: Counter[str] | None) -> bool:
        if self.launch is None:
            return True
        rule = self.launch.worker(mode, role, worker.site.pool, worker.layout)
        if rule is not None and rejected is not None:
            rejected[rule] += 1
        return rule is None

    def servers(self, mode: Mode, rejected: Counter[str] | None = None) -> list[tuple[Family, Server]]:
        """Whatever decodes in a mode and can be launched; what cannot is counted in `rejected`.

        In a closed loop there are no more requests than clients, and a batch that waits for more would claim a longer
        stay than they see: servers then stand once for every equal division of the clients over 1, 2, 3, 4, 6, 8, ...
        of them.
        """
        role = decoding_role(mode, self.service.phase)
        servers = [
            (family, server)
            for family, server in self.unlimited_servers(mode)
            if not isinstance(family, Worker) or self._launches(mode, role, family, rejected)
        ]
        if rejected is not None and mode in (Mode.AFD, Mode.PREFILL_DECODE_AFD):
            rejected.update(self.unlaunchable_units)
        clients = self.sites[0].workload.arrival.concurrency
        if not self.closed_loop or clients is None:
            return servers
        counts = [count << power for power in range(20) for count in (1, 3) if count << power <= clients]
        limits = sorted({clients // count for count in counts}, reverse=True)
        return [(family, server.limited(limit)) for family, server in servers for limit in limits]

    def unlimited_servers(self, mode: Mode) -> list[tuple[Family, Server]]:
        """Whatever decodes in a mode, with all the slots that memory holds."""
        if mode in (Mode.AFD, Mode.PREFILL_DECODE_AFD):
            return [(unit.unit, unit) for unit in self.units]
        decoding = [worker for worker in self.workers if worker.layout.pp in DECODING_PIPELINE_DEGREES]
        return [(worker, WorkerServer(worker)) for worker in decoding]


@dataclass(frozen=True, eq=False)
class HandOver:
    """A P/D mode of one service: options for any TTFT levels.

    Args:
        index: of the service.
        mode: serving mode.
        ttft_ms: the SLO.
        prefill: prefill options.
        decode: decode options.
    """

    index: int
    mode: Mode
    ttft_ms: float
    prefill: PrefillSide
    decode: DecodeSide

    @staticmethod
    def of(space: ServiceSpace, mode: Mode, *, prune: bool, clock: Clock = UNLIMITED) -> HandOver:
        """The P/D mode of a service."""
        rejected, transfer = space.rejected[mode], space.transfer()
        prefill, refused = space.prefill_side(mode, prune=prune, clock=clock)
        rejected.update(refused)
        servers = space.servers(mode, rejected)
        return HandOver(
            space.index,
            mode,
            space.targets.ttft_ms,
            prefill,
            DecodeSide(servers, space.targets, transfer.bytes_per_request, rejected, prune=prune, clock=clock),
        )

    def first_levels(self, clock: Clock = UNLIMITED) -> tuple[Level, ...]:
        """Levels to begin with: link rates x decode parts of TTFT between the smallest and the largest there is."""
        between = self.decode.range_ms(clock)
        if between is None:
            return ()
        largest = min(between[1], self.ttft_ms)
        smallest = min(between[0], largest)
        rates = sorted({min(a, b) for a in self.prefill.links for b in self.decode.links})
        steps = np.geomspace(max(smallest, 1e-6), max(largest, 1e-6), FIRST_LEVELS + 1)
        # The last level must admit the option that it was made from: rounding upwards, by less than any SLO can tell.
        ends = sorted({*(float(step) for step in steps[1:-1]), largest * (1.0 + 1e-12)})
        return tuple(ladder(rates, ends, smallest))

    def options(self, levels: Sequence[Level], clock: Clock = UNLIMITED) -> ModeOptions:
        """The options of some levels.

        Raises:
            OutOfTimeError: the clock ran out before those not known yet were found.
        """
        decode = Group(self.index, self.mode, Role.DECODE, self.decode.at(levels, clock))

        def prefill(budgets_ms: Sequence[float]) -> Group:
            return Group(self.index, self.mode, Role.PREFILL, self.prefill.at(levels, budgets_ms, clock))

        return ModeOptions(
            (prefill([self.ttft_ms - level.decode_ms for level in levels]), decode),
            (prefill([self.ttft_ms - level.decode_ms_below for level in levels]), decode),
            tuple(levels),
        )


def ladder(rates: Sequence[float], ends: Sequence[float], smallest: float) -> list[Level]:
    """Every link rate with every interval of decode parts: `ends` ascending, the first from `smallest`."""
    below = [min(smallest, ends[0]), *ends[:-1]]
    return [Level(rate, end, start) for rate in rates for start, end in zip(below, ends, strict=True)]


def fabric_gbyte(family: Family, role: Role, tokens: float) -> dict[str, float]:
    """Scale-out gigabytes (sent plus received) that `tokens` tokens of one request cause, by pool name.

    Args:
        family: the worker or unit that computes them.
        role: prefill exchanges differ from decode exchanges across domains.
        tokens: tokens computed for one request in this role.
    """
    result: dict[str, float] = {}
    if isinstance(family, Worker):
        total = 0.0
        for group in family.site.model.layers:
            if isinstance(group.ffn, MoeFfn) and family.layout.dp > 1:
                width = group.ffn.expert_hidden or family.site.model.hidden
                copies = family.copies(group.ffn, low_latency=role is Role.DECODE).scale_out
                both = dispatch_bytes(width, family.site.service.precision) + width * ACTIVATION_BYTES
                total += 2.0 * group.count * copies * both
        result[family.site.pool.name] = total * tokens * 1e-9
        return result
    if not family.scale_up:
        model = family.attention_site.model
        per_token = 0.0
        for group in model.layers:
            if isinstance(group.ffn, MoeFfn):
                width = group.ffn.expert_hidden or model.hidden
                both = dispatch_bytes(width, family.attention_site.service.precision) + width * ACTIVATION_BYTES
                per_token += group.count * family.crossing.scale_out * both
        for site in (family.attention_site, family.ffn_site):
            name = site.pool.name
            result[name] = result.get(name, 0.0) + per_token * tokens * 1e-9
    return result


@dataclass(frozen=True, eq=False)
class Space:
    """The declared space of a scenario.

    Args:
        scenario: the question.
        pools: its pools, resolved.
        services: per service, what it may run on.
        calibration: the user's kernel tables, which every variant of the space keeps.
    """

    scenario: Scenario
    pools: tuple[ResolvedPool, ...]
    services: tuple[ServiceSpace, ...]
    calibration: Calibration = NOT_CALIBRATED

    @staticmethod
    def of(
        scenario: Scenario,
        pools: Sequence[ResolvedPool] | None = None,
        slowdown: Slowdown = FULL_SPEED,
        calibration: Calibration = NOT_CALIBRATED,
    ) -> Space:
        """Enumerate a scenario's layouts.

        Args:
            scenario: the question.
            pools: its pools resolved, where they are not as the scenario says (what-if studies).
            slowdown: factors on kernel and communication times.
            calibration: the user's kernel tables.
        """
        pools = tuple(pools) if pools is not None else tuple(resolve_pool(pool) for pool in scenario.cluster.pools)
        services = tuple(
            ServiceSpace.of(index, service, pools, slowdown, calibration)
            for index, service in enumerate(scenario.services)
        )
        return Space(scenario, tuple(pools), services, calibration)
