"""Prediction for one configuration, without any search: the figures that the options of a plan are made from.

An open arrival process gives the rate, from which Little's law gives the requests in flight (`planner.running`, which
re-evaluates plans as well). In a closed loop of C clients the rate R is the one at which the requests in the system,
those that wait included, are the clients:

    R (TTFT(R) + (output - 1) TPOT(R)) = C        (means)

Where that holds only with more requests in flight than there are slots, the rate is that of full slots and the rest
waits for one: TTFT is then C / R less the time to decode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.configured import Part, Setup, SiteCache
from planner.costs.breakdown import afd_breakdown, decode_breakdown, mixed_breakdown, prefill_breakdown
from planner.costs.linear import FloatArray
from planner.costs.queueing import in_flight
from planner.costs.worker import Worker
from planner.kernels.calibration import Calibration, PathOrPaths
from planner.options.server import AfdServer, WorkerServer
from planner.options.targets import Targets
from planner.provenance import provenance
from planner.running import DecodeRun, PrefillRun, ServePoint, ServeRun, exposed_ms, threshold
from planner.simulation.deployment import LARGEST_RUN, PartRun, Scheduling, simulate
from specs.errors import SpecError
from specs.plan import PoolPlan, Provenance, Role
from specs.prediction import PREDICTION_SCHEMA, Benchmark, Configuration, Obstacle, Prediction, Seen
from specs.service import Mode, Statistic

ROUNDING = 1e-9
"""Relative excess over a limit that rounding can cause."""


@dataclass(frozen=True)
class Figures:
    """What a configuration reaches at its load.

    Args:
        rate_rps: requests/s of all replicas.
        largest_rps: requests/s that fill all slots, or all steps with prompts.
        ttft_ms: at the statistic.
        tpot_ms: at the statistic; None where one output token has none.
        mean: requests in flight of one (attention) replica that decodes.
        slot_wait_ms: part of TTFT that requests beyond the slots of a closed loop wait for one.
        serve: of a server of whole requests.
        prefill_busy: share of time that prefill workers compute; None without them.
        prefill_ms: all chunks of a prompt.
        decode_step_ms: step without prompts.
    """

    rate_rps: float
    largest_rps: float
    ttft_ms: float
    tpot_ms: float | None
    mean: float
    slot_wait_ms: float
    serve: ServePoint | None
    prefill_busy: float | None
    prefill_ms: float
    decode_step_ms: float


@dataclass(frozen=True)
class Refusal:
    """Why a configuration cannot run as asked.

    Args:
        obstacle: what is in the way.
        reason: the same in words.
        largest_rps: requests/s that it can serve; None where no request fits.
    """

    obstacle: Obstacle
    reason: str
    largest_rps: float | None = None


def predict(
    configuration: Configuration, *, calibration: PathOrPaths = (), sites: SiteCache | None = None
) -> Prediction:
    """What one configuration reaches.

    Args:
        configuration: everything, with nothing left to choose.
        calibration: tables that `cleave calibrate` wrote; each is used on the GPU type that it was measured on.
        sites: shared by many predictions, which then take less time each; they bring their own calibration.

    Raises:
        SpecError: an unknown name, a layout that cannot be launched, or a table that is not complete or of none of the
            GPU types, with its field.
    """
    if sites is None:
        sites = SiteCache(Calibration.read(calibration))
    setup = Setup.of(configuration, sites.traced_site)
    notes = sites.calibration.notes([site.pool for site in setup.space.sites])
    return _prediction(setup, evaluate(setup), notes)


def evaluate(setup: Setup) -> Figures | Refusal:
    """The figures of a configuration that is set up, without breakdown and provenance."""
    for part in setup.parts:
        if not part.slots:
            return Refusal(Obstacle.MEMORY, _memory_words(part))
    workload = setup.space.sites[0].workload
    clients, rate = workload.arrival.concurrency, setup.configuration.request_rate_rps
    if len(setup.parts) == 1:
        (part,) = setup.parts
        return _serve(setup, part, clients, rate)
    prefill, decode = setup.parts
    return _handed_over(setup, prefill, decode, clients, rate)


def _serve(setup: Setup, part: Part, clients: int | None, rate_rps: float | None) -> Figures | Refusal:
    """Servers of whole requests."""
    space = setup.space
    run = ServeRun(part.server, space.targets, part.slots, part.chunks, space.prefix_load_ms(part.server))
    largest = run.largest_rps * part.count
    wait = 0.0
    if clients is None:
        assert rate_rps is not None  # `Configuration.check_load`
        if rate_rps > largest * (1.0 + ROUNDING):
            return _saturated(rate_rps, largest)
        rate = rate_rps / part.count
        mean = run.mean(rate)
    else:
        means = replace(run, targets=_of_means(space.targets))
        steps = part.server.site.lengths.decode_tokens

        def in_system(mean: FloatArray) -> FloatArray:
            rate = run.rate_rps(mean)
            ttft, tpot = means.latencies_ms(mean, rate)
            return np.asarray(rate * 1e-3 * (ttft + steps * tpot))

        per_server = clients / part.count
        mean = threshold(lambda mean: np.asarray(in_system(mean) <= per_server), run.fullest)
        flight = np.full((1, 1), mean)
        rate = float(run.rate_rps(flight)[0, 0])
        wait = _left_over_ms(per_server, float(in_system(flight)[0, 0]), rate)
    point = run.at(mean, rate)
    return Figures(
        rate_rps=rate * part.count,
        largest_rps=largest,
        ttft_ms=point.ttft_ms + wait,
        tpot_ms=point.tpot_ms if part.server.site.lengths.decode_tokens > 0 else None,
        mean=mean,
        slot_wait_ms=wait,
        serve=point,
        prefill_busy=None,
        prefill_ms=point.prefill_ms,
        decode_step_ms=point.decode_step_ms,
    )


def _handed_over(
    setup: Setup, first: Part, second: Part, clients: int | None, rate_rps: float | None
) -> Figures | Refusal:
    """Prefill workers that hand over to whatever decodes."""
    space, transfer = setup.space, setup.space.transfer()
    assert isinstance(first.server, WorkerServer)
    prefill = PrefillRun(first.server.worker, space.targets, first.slots, first.chunks)
    decode = DecodeRun(second.server, space.targets, second.slots)
    exposed = exposed_ms(transfer, prefill, decode)
    sent = transfer.bytes_per_request
    of_prefill, of_decode = prefill.largest_rps(sent) * first.count, decode.largest_rps(sent) * second.count
    largest = min(of_prefill, of_decode)
    steps = second.server.site.lengths.decode_tokens
    wait = 0.0
    if clients is None:
        assert rate_rps is not None  # `Configuration.check_load`
        if rate_rps > largest * (1.0 + ROUNDING):
            return _saturated(rate_rps, largest, "prefill" if of_prefill < of_decode else "decode")
        rate = rate_rps
        mean = decode.mean(rate / second.count)
    else:
        mean_targets = _of_means(space.targets)
        prompts, answers = replace(prefill, targets=mean_targets), replace(decode, targets=mean_targets)

        def flight_of(load: FloatArray) -> FloatArray:
            return load * second.slots if steps > 0 else np.zeros_like(load)

        def rate_of(load: FloatArray) -> FloatArray:
            return decode.rate_rps(flight_of(load)) * second.count if steps > 0 else load * largest

        def in_system(load: FloatArray) -> FloatArray:
            rate, flight = rate_of(load), flight_of(load)
            ttft = prompts.ttft_ms(rate / first.count) + exposed + answers.first_ms(flight)
            return np.asarray(rate * 1e-3 * (ttft + steps * answers.tpot_ms(flight)))

        def fits(load: FloatArray) -> NDArray[np.bool_]:
            return np.asarray((rate_of(load) <= largest) & (in_system(load) <= clients))

        load = np.full((1, 1), threshold(fits, 1.0))
        rate, mean = float(rate_of(load)[0, 0]), float(flight_of(load)[0, 0])
        wait = _left_over_ms(clients, float(in_system(load)[0, 0]), rate)
    flight = np.full((1, 1), mean)
    share = np.asarray(rate / first.count)
    ttft = float(prefill.ttft_ms(share)) + exposed + float(decode.first_ms(flight)[0, 0]) + wait
    return Figures(
        rate_rps=rate,
        largest_rps=largest,
        ttft_ms=ttft,
        tpot_ms=float(decode.tpot_ms(flight)[0, 0]) if steps > 0 else None,
        mean=mean,
        slot_wait_ms=wait,
        serve=None,
        prefill_busy=float(prefill.busy(share)),
        prefill_ms=prefill.time_ms,
        decode_step_ms=decode.step_ms(mean),
    )


def _of_means(targets: Targets) -> Targets:
    """The same arrivals, asked for means: Little's law is about those."""
    return replace(targets, statistic=Statistic.MEAN)


def _left_over_ms(clients: float, in_system: float, rate_rps: float) -> float:
    """Wait for a slot of the clients that the system has no room for."""
    left = clients - in_system
    return 1e3 * left / rate_rps if left > ROUNDING * clients else 0.0


def _saturated(rate_rps: float, largest: float, side: str = "") -> Refusal:
    where = f" ({side} is the bottleneck)" if side else ""
    words = f"{rate_rps:.6g} requests/s arrive, but at most {largest:.6g} can be served{where}"
    return Refusal(Obstacle.SATURATED, words, largest)


def _memory_words(part: Part) -> str:
    role, memory = min(part.memory.items(), key=lambda item: item[1].free)
    if memory.free >= 0:
        return f"memory does not hold one request for each micro-batch of role {role.value}"
    needed = memory.weights + memory.kv + memory.activations
    return (
        f"a GPU of role {role.value} has {memory.available / 1e9:,.1f} GB, but weights "
        f"({memory.weights / 1e9:,.1f} GB), the fewest requests and activations need {needed / 1e9:,.1f} GB"
    )


# -- the prediction ----------------------------------------------------------------------------------------------------


def _prediction(setup: Setup, figures: Figures | Refusal, kernel_notes: Sequence[str]) -> Prediction:
    configuration, lead = setup.configuration, setup.parts[-1]
    slots = lead.slots * lead.copies * lead.count
    memory = {role: each for part in setup.parts for role, each in part.memory.items()}
    prompts = setup.parts[0]
    if isinstance(figures, Refusal):
        return Prediction(
            schema=PREDICTION_SCHEMA,
            mode=configuration.mode,
            statistic=configuration.statistic,
            feasible=False,
            obstacle=figures.obstacle,
            reason=figures.reason,
            largest_rate_rps=figures.largest_rps,
            gpus=setup.gpus,
            slots=slots,
            chunks=prompts.chunks,
            pools=tuple(pool for part in setup.parts for pool in part.pools),
            memory=memory,
            provenance=_provenance(setup, kernel_notes),
        )
    tokens = figures.rate_rps * lead.server.site.lengths.output
    used = figures.mean / lead.slots
    breakdown, simulated = _breakdown(setup, figures), _simulated(setup)
    return Prediction(
        schema=PREDICTION_SCHEMA,
        mode=configuration.mode,
        statistic=configuration.statistic,
        feasible=True,
        largest_rate_rps=figures.largest_rps,
        ttft_ms=figures.ttft_ms,
        tpot_ms=figures.tpot_ms,
        throughput_tok_s=tokens,
        throughput_tok_s_per_gpu=tokens / setup.gpus,
        request_rate_rps=figures.rate_rps,
        gpus=setup.gpus,
        in_flight=figures.mean * lead.copies * lead.count,
        slots=slots,
        utilisation=used,
        prompt_step_share=figures.serve.share if figures.serve else None,
        prefill_utilisation=figures.prefill_busy,
        decode_step_ms=figures.decode_step_ms,
        mixed_step_ms=figures.serve.mixed_step_ms if figures.serve else None,
        prefill_ms=figures.prefill_ms,
        chunks=prompts.chunks,
        pools=tuple(
            _with_utilisation(pool, figures.prefill_busy if part.role is Role.PREFILL else used)
            for part in setup.parts
            for pool in part.pools
        ),
        memory=memory,
        breakdown=breakdown,
        benchmark=_benchmark(configuration.requests, simulated),
        provenance=_provenance(setup, kernel_notes),
        notes=_notes(setup, figures, simulated),
    )


def _simulated(setup: Setup) -> PartRun | None:
    """The run that the configuration asks for, or None where it asks for none.

    Raises:
        SpecError: runs of this mode or layout are not simulated.
    """
    requests, clients = setup.configuration.requests, setup.space.sites[0].workload.arrival.concurrency
    if requests is None or clients is None:
        return None
    try:
        return simulate(setup, Scheduling(), clients, requests)
    except ValueError as error:
        raise SpecError(str(error), field="requests") from error


def _benchmark(requests: int | None, simulated: PartRun | None) -> Benchmark | None:
    if requests is None or simulated is None:
        return None
    ttft, tpot = simulated.run.ttft_ms, simulated.run.tpot_ms
    return Benchmark(
        requests=requests,
        ttft_ms=_seen(ttft),
        tpot_ms=_seen(tpot) if tpot.size else None,
        throughput_tok_s=simulated.throughput_tok_s,
    )


def _seen(values: FloatArray) -> Seen:
    p50, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99)))
    return Seen(mean=float(values.mean()), p50=p50, p90=p90, p99=p99)


def _with_utilisation(pool: PoolPlan, used: float | None) -> PoolPlan:
    return pool.model_copy(update={"utilisation": min(max(used or 0.0, ROUNDING), 1.0)})


def _breakdown(setup: Setup, figures: Figures) -> dict[str, dict[str, float]]:
    """Milliseconds by operator of every kind of step at the mean number in flight."""
    lead = setup.parts[-1]
    found: dict[str, dict[str, float]] = {}
    slots = float(lead.slots)
    if isinstance(lead.server, AfdServer):
        unit, microbatches = lead.server.unit, int(lead.server.microbatches[0])
        found["decode"] = afd_breakdown(unit, figures.mean, lead.copies, microbatches, slots)
    else:
        worker = _worker_of(lead)
        found["decode"] = decode_breakdown(worker, figures.mean, slots)
        if lead.role is Role.MIXED:
            found["mixed"] = mixed_breakdown(worker, figures.mean, slots, lead.chunks)
    if setup.parts[0].role is Role.PREFILL:
        first = setup.parts[0]
        found["prefill"] = prefill_breakdown(_worker_of(first), float(first.slots), first.chunks)
    return found


def _worker_of(part: Part) -> Worker:
    assert isinstance(part.server, WorkerServer)
    return part.server.worker


def _notes(setup: Setup, figures: Figures, simulated: PartRun | None) -> tuple[str, ...]:
    """What the figures do not say."""
    lead, given = setup.parts[-1], setup.configuration
    notes: list[str] = []
    asked = given.worker or given.decode or given.attention
    batch = asked.batch if asked else None
    if batch is not None and lead.held_slots < batch:
        notes.append(f"memory holds {lead.held_slots} of the {batch} requests per replica that are asked for")
    if figures.slot_wait_ms > 0.0:
        notes.append(
            f"more clients than slots: requests wait {figures.slot_wait_ms:,.0f} ms of their TTFT for a free one"
        )
    cv = setup.space.targets.arrival_cv
    if figures.mean * lead.copies > float(in_flight(lead.slots * lead.copies, cv)) * (1.0 + 1e-6):
        notes.append("with so few free slots random arrivals also wait for one, which TTFT does not include")
    if given.mode is Mode.AFD:
        notes.append("the breakdown of an AFD unit is that of steps without prompts")
    if simulated is not None and simulated.cut:
        notes.append(
            f"the benchmark run ends after {LARGEST_RUN:,} requests of each of its equal parts: the start weighs more, "
            "and throughput counts its end"
        )
    return tuple(notes)


def _provenance(setup: Setup, notes: Sequence[str]) -> Provenance:
    return provenance(setup.space.sites, packages=("cleave", "numpy"), notes=notes)
