"""Predicts measured points: whole deployments by `planner.prediction`, single pools by the worker that they are of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from planner.accuracy.points import Point, Workers
from planner.accuracy.score import Estimate
from planner.configured import Setup, SiteCache
from planner.costs.engines import ENGINES
from planner.costs.layout import Layout
from planner.costs.worker import Worker
from planner.simulation.deployment import Scheduling, simulate
from specs import catalog
from specs.model import MoeFfn
from specs.prediction import CONFIGURATION_SCHEMA, Configuration, WorkerLayout
from specs.scenario import Pool, resolve_pool
from specs.service import Mode, Phase, Service, Slo
from specs.workload import MeanLength, Workload, mean_tokens

REQUESTS_PER_CLIENT = 10
"""Requests of a run that does not say how many it had, per client."""

ROUTING_SKEW = 0.7
"""Skew of routing given to every model: that of the measured tables' `power_law_1.01`, which their publisher takes for
DeepSeek's models (`planner.kernels.experts.MEASURED_SKEW`). No point says how its routing was skewed."""

DESYNCHRONISED = 0.01
"""Coefficient of variation given to fixed answer lengths on engines that mix prompts into decode steps. Clients that
all ask for equally long answers would stay in step for the whole run; measured runs of such engines drift apart (their
TTFT is between that of lockstep and that of random lengths), those of SGLang, which lets prompts go first, do not."""

PREFILL_STEP_TOKENS = 16_384
"""New tokens of one step and DP rank of a prefill pool measured alone: as published for SGLang's and DeepSeek's."""


@dataclass(frozen=True)
class CostModel:
    """The cost model as an `Estimator`.

    Args:
        sites: kernels and operators, shared by all points of one model, GPU, engine and format.
    """

    sites: SiteCache = field(default_factory=SiteCache)

    def __call__(self, point: Point) -> Estimate:
        """Predict a point.

        Raises:
            ValueError: it cannot be predicted; the message says why.
        """
        match point.phase:
            case Phase.FULL:
                return self._deployment(point)
            case Phase.DECODE:
                return _decode_pool(point, self._worker(point))
            case Phase.PREFILL:
                return _prefill_pool(point, self._worker(point))

    def _deployment(self, point: Point) -> Estimate:
        if point.concurrency is None:
            raise ValueError("its concurrency is not stated")
        recipe = point.recipe
        scheduling = Scheduling(recipe.poll_steps, recipe.wait_steps, recipe.wait_share)
        setup = _as_it_ran(Setup.of(configuration(point), self.sites.site), point)
        requests = point.requests or REQUESTS_PER_CLIENT * point.concurrency
        seen = simulate(setup, scheduling, point.concurrency, requests).run
        ttft, tokens = float(seen.ttft_ms.mean()), mean_tokens(point.workload.output_tokens)
        if not seen.tpot_ms.size:
            return Estimate(ttft, None, None)
        # The corpus derives throughput from the means by Little's law; a run's own falls while its last answers end.
        tpot = float(seen.tpot_ms.mean())
        rate = point.concurrency / (ttft + tpot * (tokens - 1.0))
        return Estimate(ttft, tpot, 1e3 * rate * tokens / point.n_gpus)

    def _worker(self, point: Point) -> Worker:
        """The worker of a pool that was measured alone, with the overlap that its notes state."""
        (workers,) = point.workers
        model = catalog.model(point.model)
        experts = max((group.ffn.experts for group in model.layers if isinstance(group.ffn, MoeFfn)), default=0)
        notes = point.notes.lower()
        overlap = workers.dp > 1 and any(words in notes for words in ("tbo on", "tbo +", "2 micro-batches"))
        layout = Layout(
            workers.tp,
            workers.dp,
            workers.ep,
            workers.moe_tp,
            workers.pp,
            expert_slots=math.ceil(experts / workers.ep) * workers.ep,
            overlap=overlap,
        )
        service = Service(
            name="point",
            model=point.model,
            precision=point.precision,
            kv_cache_dtype=point.kv_cache_dtype,
            engine=point.engine,
            workload=Workload(input_tokens=point.workload.input_tokens, output_tokens=point.workload.output_tokens),
            slo=Slo(ttft_ms=1e6, tpot_ms=1e6),
            speculative=point.speculative,
        )
        pool = Pool(name="pool", gpu=point.gpu, count=point.n_gpus)
        return Worker(self.sites.site(service, resolve_pool(pool)), layout)


def configuration(point: Point) -> Configuration:
    """A measured deployment as `predict` takes it."""
    fields: dict[str, object] = {
        "schema": CONFIGURATION_SCHEMA,
        "model": point.model,
        "gpu": point.gpu,
        "precision": point.precision,
        "kv_cache_dtype": point.kv_cache_dtype,
        "engine": point.engine,
        "workload": _workload(point),
        "speculative": point.speculative,
        "routing_skew": ROUTING_SKEW,
        "mode": point.mode,
    }
    layouts = [_layout(point, workers) for workers in point.workers]
    names = ("worker",) if point.mode is Mode.AGGREGATED else ("prefill", "decode")
    return Configuration.model_validate({**fields, **dict(zip(names, layouts, strict=True))})


def _as_it_ran(setup: Setup, point: Point) -> Setup:
    """The same with slots for every client where memory, by our reckoning, does not hold one: it ran, so it fitted."""
    clients = point.concurrency or 1
    parts = tuple(part if part.slots else replace(part, slots=math.ceil(clients / part.count)) for part in setup.parts)
    return replace(setup, parts=parts)


def _workload(point: Point) -> Workload:
    """The requests as they were served."""
    output = point.workload.output_tokens
    if ENGINES[point.engine].prefill_first or point.mode is not Mode.AGGREGATED or not isinstance(output, int):
        return point.workload
    return point.workload.model_copy(update={"output_tokens": MeanLength(mean=float(output), cv=DESYNCHRONISED)})


def _layout(point: Point, workers: Workers) -> WorkerLayout:
    tokens = point.recipe.step_tokens
    return WorkerLayout(
        replicas=workers.count,
        tp=workers.tp,
        dp=workers.dp,
        ep=workers.ep,
        pp=workers.pp,
        batch=point.recipe.max_running,
        chunk_tokens=None if tokens is None else ENGINES[point.engine].step_budget(workers.dp, tokens),
    )


def _decode_pool(point: Point, worker: Worker) -> Estimate:
    """Output tokens/s of a full decode pool at its stated batch."""
    if point.concurrency is None:
        raise ValueError("the batch of the decode pool is not stated")
    (workers,) = point.workers
    batch = point.concurrency / workers.count
    step_ms = float(worker.decode_step_ms(batch)) / worker.site.tokens_per_step
    return Estimate(tpot_ms=step_ms, throughput_tok_s_per_gpu=batch / step_ms * 1e3 / workers.gpus)


def _prefill_pool(point: Point, worker: Worker) -> Estimate:
    """New tokens/s of a saturated prefill pool."""
    (workers,) = point.workers
    tokens = mean_tokens(point.workload.input_tokens)
    prompts = max(PREFILL_STEP_TOKENS // tokens, 1.0) * workers.dp
    time_ms = float(worker.prefill_ms(prompts, 1))
    return Estimate(throughput_tok_s_per_gpu=prompts * tokens / time_ms * 1e3 / workers.gpus)
