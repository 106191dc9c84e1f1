"""Predictions of one configuration: against plans, Little's law and what must hold of any system."""

from itertools import pairwise
from typing import Any

import pytest

from planner import plan, predict
from planner.configured import SiteCache
from specs.errors import SpecError
from specs.load import build
from specs.plan import Deployment, OperatorKind, Plan, PoolPlan, Role
from specs.prediction import CONFIGURATION_SCHEMA, Configuration, Obstacle, Prediction
from specs.scenario import Scenario
from specs.service import Limits, Mode, Service
from tests.planner.scenarios import DENSE, MOE, scenario, service

ROUNDING = 1e-6
SITES = SiteCache()
LOOP: dict[str, Any] = {
    "schema": CONFIGURATION_SCHEMA,
    "model": MOE,
    "gpu": "h100",
    "workload": {
        "input_tokens": 2000,
        "output_tokens": 300,
        "arrival": {"process": "closed_loop", "concurrency": 64},
    },
    "worker": {"tp": 4},
}
FIELDS = {Role.MIXED: "worker", Role.PREFILL: "prefill", Role.DECODE: "decode"}


def changed(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The document with some fields replaced, those given as None removed."""
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def predicted(**changes: Any) -> Prediction:
    return predict(build(Configuration, changed(LOOP, **changes)), sites=SITES)


def loop(clients: int, input_tokens: int = 2000, output_tokens: int = 300) -> dict[str, Any]:
    arrival = {"process": "closed_loop", "concurrency": clients}
    return {"input_tokens": input_tokens, "output_tokens": output_tokens, "arrival": arrival}


def configured(question: Scenario, of: Service, deployment: Deployment, rate_rps: float) -> Configuration:
    """The configuration of a plan's deployment."""
    pools = {pool.name: pool for pool in question.cluster.pools}
    servers: dict[str, Any] = {}
    for pool in deployment.pools:
        if pool.role is Role.ATTENTION:
            servers["attention"] = _common(pool) | {"gpu": pools[pool.gpu_pool].model_dump(), "tp": pool.tp}
            servers["microbatches"] = pool.microbatches
        elif pool.role is Role.FFN:
            degrees = {"ep": pool.ep, "moe_tp": pool.moe_tp, "expert_slots": pool.expert_slots}
            servers["ffn"] = {"gpu": pools[pool.gpu_pool].model_dump(), "replicas": pool.replicas, **degrees}
        else:
            degrees = {name: getattr(pool, name) for name in ("tp", "dp", "pp", "ep", "moe_tp")}
            if not pool.expert_slots:  # dense: one shard of the FFN per rank is the default
                degrees = {name: getattr(pool, name) for name in ("tp", "pp")}
            servers[FIELDS[pool.role]] = {
                **_common(pool),
                **degrees,
                "gpu": pools[pool.gpu_pool].model_dump(),
                "expert_slots": pool.expert_slots or None,
                "overlap": pool.microbatches == 2 * pool.pp,
            }
    return build(
        Configuration,
        {
            "schema": CONFIGURATION_SCHEMA,
            "model": of.model,
            "gpu": question.cluster.pools[0].model_dump(),
            "precision": of.precision.value,
            "kv_cache_dtype": of.kv_cache_dtype.value,
            "engine": of.engine.value,
            "kernels": of.kernels.value,
            "workload": of.workload if isinstance(of.workload, str) else of.workload.model_dump(mode="json"),
            "statistic": of.slo.statistic.value,
            "request_rate_rps": rate_rps,
            **servers,
        },
    )


def _common(pool: PoolPlan) -> dict[str, Any]:
    return {"replicas": pool.replicas, "batch": pool.batch, "chunk_tokens": pool.chunk_tokens or None}


PLANNED = {
    "dense": (Mode.AGGREGATED, service(), {}),
    "moe-p99": (Mode.AGGREGATED, service(model=MOE, statistic="p99", tpot_ms=30.0), {}),
    "moe-prefix": (Mode.AGGREGATED, service(model=MOE, prefix_tokens=3000, input_tokens=900), {}),
    "handed-over": (Mode.PREFILL_DECODE, service(model=MOE), {}),
    "handed-over-p90": (Mode.PREFILL_DECODE, service(statistic="p90", ttft_ms=600.0), {}),
    "afd": (Mode.AFD, service(model=MOE, ttft_ms=1000.0, tpot_ms=40.0), {"count": 16}),
    "prefill-afd": (Mode.PREFILL_DECODE_AFD, service(model=MOE, ttft_ms=1000.0, tpot_ms=40.0), {"count": 16}),
}


@pytest.mark.parametrize("name", PLANNED)
def test_a_plan_is_predicted_as_it_was_planned(name: str) -> None:
    mode, asked, pool = PLANNED[name]
    # A plan may mix layouts of one role, which one configuration does not describe: the limit keeps these to one.
    limits = Limits(max_gpus_per_replica=4 if mode in (Mode.AFD, Mode.PREFILL_DECODE_AFD) else 2)
    question = scenario(asked.model_copy(update={"modes": (mode,), "limits": limits}), **pool)
    found: Plan = plan(question, explain=False)
    compared = 0
    for deployment in found.services[0].deployments:
        roles = [pool.role for pool in deployment.pools]
        if len(set(roles)) < len(roles):
            continue  # several layouts of one role, which one configuration does not describe
        rate = deployment.throughput_tok_s / 256.0
        reached = predict(configured(question, asked, deployment, rate))
        assert reached.feasible, reached.reason
        assert reached.ttft_ms == pytest.approx(deployment.ttft_ms, rel=ROUNDING)
        assert reached.tpot_ms == pytest.approx(deployment.tpot_ms, rel=ROUNDING)
        assert reached.throughput_tok_s == pytest.approx(deployment.throughput_tok_s, rel=ROUNDING)
        for ours, planned in zip(reached.pools, sorted(deployment.pools, key=_order), strict=True):
            same = {"gpu_pool", "replicas", "gpus_per_replica", "tp", "ep", "expert_slots", "batch", "chunk_tokens"}
            assert ours.model_dump(include=same) == planned.model_dump(include=same)
            assert ours.utilisation == pytest.approx(planned.utilisation, rel=1e-5)
        assert all(memory.free >= 0 for memory in reached.memory.values())
        compared += 1
    assert compared


def _order(pool: PoolPlan) -> int:
    return [Role.PREFILL, Role.MIXED, Role.DECODE, Role.ATTENTION, Role.FFN].index(pool.role)


def test_a_narrow_cache_with_slow_kernels_is_noted_and_the_advice_helps() -> None:
    asked: dict[str, Any] = {"model": "deepseek-ai/DeepSeek-V3", "gpu": "h200", "worker": {"tp": 8, "batch": 64}}

    def one(**changes: Any) -> Prediction:
        return predict(build(Configuration, changed(LOOP, **asked, **changes)))

    narrow, wide, analytic = one(), one(kv_cache_dtype="bf16"), one(kernels="analytic")
    (note,) = narrow.provenance.notes
    assert note.startswith("decode attention of deepseek-ai/DeepSeek-V3 on h200-sxm-141gb takes ")
    assert note.endswith("try kv_cache_dtype: bf16")
    assert not wide.provenance.notes
    assert not analytic.provenance.notes
    cores = [each.breakdown["decode"]["decode_attention"] for each in (narrow, wide)]
    assert cores[0] > 1.1 * cores[1]
    assert wide.tpot_ms is not None
    assert narrow.tpot_ms is not None
    assert wide.tpot_ms < narrow.tpot_ms


def test_more_sequences_than_were_measured_with_contexts_as_long_are_flagged() -> None:
    """The same 64 clients: of 32 heads on 8 KV heads 32,768 tokens were measured with 16 sequences at most."""
    found = {}
    for tokens in (2000, 32000):
        asked = {"model": DENSE, "gpu": "h200", "workload": loop(64, tokens), "worker": {"tp": 1}}
        prediction = predict(build(Configuration, changed(LOOP, **asked)))
        (found[tokens],) = [
            each.outside for each in prediction.provenance.operators if each.operator is OperatorKind.DECODE_ATTENTION
        ]
    assert found[2000] == 1.0
    assert 3.0 < found[32000] < 4.0


SERVERS: dict[str, dict[str, Any]] = {
    "worker": {"worker": {"tp": 4}},
    "replicas": {"worker": {"tp": 1, "dp": 4, "replicas": 2}},
    "handed over": {"worker": None, "prefill": {"tp": 2}, "decode": {"dp": 4}},
    "afd": {"worker": None, "gpu": "gb200", "attention": {"replicas": 4}, "ffn": {"ep": 8}},
    "prefill afd": {"worker": None, "gpu": "gb200", "prefill": {}, "attention": {"replicas": 4}, "ffn": {"ep": 8}},
}


@pytest.mark.parametrize("servers", SERVERS.values(), ids=SERVERS)
@pytest.mark.parametrize("clients", [1, 7, 64, 900, 30_000])
def test_clients_of_a_closed_loop_are_all_in_the_system(servers: dict[str, Any], clients: int) -> None:
    reached = predicted(**servers, workload=loop(clients))
    assert reached.ttft_ms is not None
    assert reached.tpot_ms is not None
    assert reached.request_rate_rps is not None
    stay_s = 1e-3 * (reached.ttft_ms + 299 * reached.tpot_ms)
    assert reached.request_rate_rps * stay_s == pytest.approx(clients, rel=ROUNDING)
    assert reached.in_flight is not None
    assert reached.in_flight <= min(clients, reached.slots) * (1 + ROUNDING)


@pytest.mark.parametrize("servers", SERVERS.values(), ids=SERVERS)
def test_more_clients_are_served_more_and_wait_longer(servers: dict[str, Any]) -> None:
    # Counts that divide evenly over all parts of a batch: others leave some parts fuller.
    runs = [predicted(**servers, workload=loop(clients)) for clients in (16, 64, 256, 1024, 4096)]
    rates = [run.request_rate_rps or 0.0 for run in runs]
    assert all(after >= before * (1 - ROUNDING) for before, after in pairwise(rates))
    ttft = [run.ttft_ms or 0.0 for run in runs]
    assert all(after >= before for before, after in pairwise(ttft))


def test_clients_beyond_the_slots_wait_for_one() -> None:
    full, crowded = (predicted(worker={"tp": 4, "batch": 16}, workload=loop(clients)) for clients in (64, 640))
    assert crowded.request_rate_rps == pytest.approx(full.request_rate_rps, rel=ROUNDING)
    assert full.ttft_ms is not None
    assert crowded.ttft_ms is not None
    assert full.request_rate_rps is not None
    assert crowded.ttft_ms - full.ttft_ms == pytest.approx(1e3 * 576 / full.request_rate_rps, rel=ROUNDING)
    assert any("more clients than slots" in note for note in crowded.notes)


def test_the_rate_of_a_closed_loop_gives_the_same_steps_when_it_arrives_by_itself() -> None:
    closed = predicted()
    opened = predicted(
        workload={"input_tokens": 2000, "output_tokens": 300},
        request_rate_rps=closed.request_rate_rps,
        worker={"tp": 4, "batch": closed.slots},
    )
    assert opened.in_flight == pytest.approx(closed.in_flight, rel=ROUNDING)
    assert opened.decode_step_ms == pytest.approx(closed.decode_step_ms, rel=ROUNDING)


def test_one_replica_among_many_is_like_one_alone() -> None:
    one, many = predicted(), predicted(worker={"tp": 4, "replicas": 3}, workload=loop(192))
    assert many.ttft_ms == pytest.approx(one.ttft_ms, rel=ROUNDING)
    assert many.throughput_tok_s_per_gpu == pytest.approx(one.throughput_tok_s_per_gpu, rel=ROUNDING)
    assert many.throughput_tok_s == pytest.approx(3 * (one.throughput_tok_s or 0.0), rel=ROUNDING)


@pytest.mark.parametrize("servers", SERVERS.values(), ids=SERVERS)
def test_operators_add_up_to_their_step(servers: dict[str, Any]) -> None:
    reached = predicted(**servers)
    assert sum(reached.breakdown["decode"].values()) == pytest.approx(reached.decode_step_ms, rel=ROUNDING)
    if "mixed" in reached.breakdown:
        assert sum(reached.breakdown["mixed"].values()) == pytest.approx(reached.mixed_step_ms, rel=ROUNDING)
    if "prefill" in reached.breakdown:
        assert sum(reached.breakdown["prefill"].values()) == pytest.approx(reached.prefill_ms, rel=ROUNDING)


@pytest.mark.parametrize("servers", [SERVERS["worker"], SERVERS["handed over"], SERVERS["prefill afd"]])
def test_a_rate_is_saturated_exactly_beyond_the_largest(servers: dict[str, Any]) -> None:
    opened = {**servers, "workload": {"input_tokens": 2000, "output_tokens": 300}}
    largest = predicted(**opened, request_rate_rps=1e-3).largest_rate_rps
    assert largest is not None
    below, above = (predicted(**opened, request_rate_rps=largest * factor) for factor in (0.999, 1.001))
    assert below.feasible
    assert above.obstacle is Obstacle.SATURATED
    assert above.largest_rate_rps == pytest.approx(largest)
    assert above.ttft_ms is None


def test_what_does_not_fit_says_so() -> None:
    reached = predicted(model="deepseek-ai/DeepSeek-V3", worker={"tp": 2})
    assert reached.obstacle is Obstacle.MEMORY
    assert reached.memory[Role.MIXED].free < 0
    assert reached.largest_rate_rps is None
    assert "GB" in reached.reason


def test_memory_adds_up_and_limits_the_batch() -> None:
    reached = predicted(worker={"tp": 1, "batch": 100_000}, workload=loop(100_000))
    memory = reached.memory[Role.MIXED]
    assert memory.weights + memory.kv + memory.activations + memory.free == pytest.approx(memory.available)
    assert 0 <= memory.free < memory.kv / reached.slots * 2
    assert any("memory holds" in note for note in reached.notes)


def test_one_output_token_has_no_tpot() -> None:
    for servers in (SERVERS["worker"], SERVERS["handed over"]):
        reached = predicted(**servers, workload=loop(8, output_tokens=1))
        assert reached.tpot_ms is None
        assert reached.ttft_ms is not None
        assert reached.request_rate_rps is not None
        assert 1e-3 * reached.ttft_ms * reached.request_rate_rps == pytest.approx(8, rel=ROUNDING)


def test_batches_beyond_the_measured_ones_are_flagged() -> None:
    def decode(batch: int) -> tuple[float, int]:
        document = {"model": "llama-3.1-8b", "workload": loop(batch, 40, 20), "worker": {"tp": 1, "batch": batch}}
        found = predict(build(Configuration, changed(LOOP, gpu="h200", **document)))
        assert found.provenance is not None
        (entry,) = [each for each in found.provenance.operators if each.operator == "decode_attention"]
        return entry.outside, entry.count_outside

    within, beyond, further = decode(64), decode(4000), decode(8000)
    assert within == (1.0, 0)
    assert beyond == (pytest.approx(further[0] / 2, rel=0.05), 1)
    assert beyond[0] > 1.5


def test_shared_sites_change_nothing() -> None:
    alone = predict(build(Configuration, LOOP))
    shared = predicted()
    assert shared == alone
    predicted(workload=loop(64, 50_000), worker={"tp": 2, "batch": 64})
    assert predicted() == alone


def test_a_slower_network_is_felt() -> None:
    fast = {"name": "h100", "gpu": "h100", "count": 16}
    wide = {"dp": 16, "ep": 16}
    quick = predicted(gpu=fast, worker=wide)
    slow = predicted(gpu={**fast, "scale_out_gbit_per_s": 50}, worker=wide)
    assert (slow.tpot_ms or 0) > (quick.tpot_ms or 0)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"worker": {"tp": 3}}, "worker.tp", "heads"),
    ({"worker": {"tp": 4, "ep": 3}}, "worker.ep", "divide"),
    ({"worker": {"tp": 4, "ep": 2, "moe_tp": 4}}, "worker.ep", "tp x dp = 4"),
    ({"worker": {"dp": 8, "expert_slots": 100}}, "worker.expert_slots", "at least the model's 128"),
    ({"worker": {"tp": 4, "dp": 3}}, "worker.tp", "whole nodes"),
    ({"worker": {"tp": 4, "overlap": True}}, "worker.overlap", "data parallelism"),
    ({"worker": {"pp": 64}}, "worker.pp", "48 layers"),
    ({"worker": {"tp": 2, "dp": 2}, "engine": "trtllm"}, "worker.dp", "trtllm"),
    ({"worker": {"dp": 2}, "model": "meta-llama/Llama-3.1-8B"}, "worker.dp", "dense"),
    ({"worker": {"tp": 2, "ep": 2}, "model": "meta-llama/Llama-3.1-8B"}, "worker.ep", "dense"),
    ({"gpu": "h1000"}, "gpu", "nearest"),
    ({"model": "nobody/none"}, "model", "unknown model"),
    ({"gpu": {"name": "small", "gpu": "h100", "count": 2}}, "gpu.count", "at least the 4 GPUs"),
    ({"worker": None}, "worker", "is required"),
    ({"prefill": {}, "mode": "aggregated"}, "prefill", "does not belong"),
    ({"request_rate_rps": 3}, "request_rate_rps", "closed loop"),
    ({"workload": {"input_tokens": 10, "output_tokens": 10}}, "request_rate_rps", "is required"),
    ({"microbatches": 2}, "microbatches", "AFD"),
    ({"worker": None, "attention": {"replicas": 3}, "ffn": {"replicas": 2}}, "attention.replicas", "multiple"),
    ({"worker": {"tp": 4, "tpp": 2}}, "worker.tpp", "did you mean"),
]


@pytest.mark.parametrize(("changes", "field", "message"), BAD)
def test_bad_input_is_named(changes: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as refused:
        predict(build(Configuration, changed(LOOP, **changes)))
    assert refused.value.field == field


def random_lengths(clients: int) -> dict[str, Any]:
    varied = {"mean": 2000, "cv": 0.3}, {"mean": 300, "cv": 0.5}
    return {**loop(clients), "input_tokens": varied[0], "output_tokens": varied[1]}


def test_a_long_benchmark_run_approaches_the_steady_state() -> None:
    """With random lengths and light load: what the clients see is the steady state plus the way in and out."""
    found = predicted(workload=random_lengths(8), requests=4000)
    assert found.benchmark is not None
    assert found.benchmark.tpot_ms is not None
    assert found.benchmark.tpot_ms.mean == pytest.approx(found.tpot_ms, rel=0.05)
    assert found.benchmark.throughput_tok_s == pytest.approx(found.throughput_tok_s, rel=0.05)
    assert found.benchmark.ttft_ms.mean > found.ttft_ms


@pytest.mark.parametrize("servers", [{}, {"worker": None, "prefill": {"tp": 2}, "decode": {"dp": 4}}])
def test_a_run_cuts_prompts_as_it_is_told_to(servers: dict[str, Any]) -> None:
    """One client sees the steps of its prompts one after the other; the steady state prices the same steps.

    (Its steps with prompts hold a decoding request, and prompts wait for the running step: a quarter at most.)
    """
    field = "prefill" if servers else "worker"
    seen = []
    for tokens in (None, 8192, 500, 200):
        layout = {**servers.get(field, LOOP["worker"]), "chunk_tokens": tokens}
        found = predicted(**{**servers, field: layout}, workload=loop(1), requests=3)
        assert found.benchmark is not None
        assert found.ttft_ms is not None
        seen.append((found.ttft_ms, found.benchmark.ttft_ms.mean))
    assert seen[0] == seen[1]
    for (steady, run), (finer_steady, finer_run) in pairwise(seen[1:]):
        assert finer_run > run
        assert finer_run - run == pytest.approx(finer_steady - steady, rel=0.25)


def test_ranks_divide_the_tokens_of_a_step() -> None:
    """Four ranks with a budget of 2,000 compute a prompt as one rank with 500 does, under any engine."""
    for engine in ("vllm", "sglang"):
        given = {"engine": engine, "workload": loop(4), "requests": 12}
        shared, whole, finer = (
            predicted(**given, worker={"dp": 4, "chunk_tokens": tokens}).benchmark for tokens in (2000, 8000, 1000)
        )
        assert shared is not None
        assert whole is not None
        assert finer is not None
        assert whole.ttft_ms.mean < shared.ttft_ms.mean < finer.ttft_ms.mean


def test_vllm_decodes_a_handed_over_answer_token_by_token() -> None:
    """It computes the last prompt token again, so that two tokens are two steps; SGLang shows both with one."""
    given = {**SERVERS["handed over"], "workload": loop(1, output_tokens=2), "requests": 3}
    tpot = {}
    for engine in ("vllm", "sglang"):
        found = predicted(engine=engine, **given)
        assert found.benchmark is not None
        assert found.benchmark.tpot_ms is not None
        tpot[engine] = found.benchmark.tpot_ms.mean
        if engine == "vllm":
            assert tpot[engine] == pytest.approx(found.decode_step_ms, rel=0.01)
    assert tpot["sglang"] == 0.0


def test_the_burst_at_the_start_is_in_the_mean_of_a_short_run() -> None:
    short, long = (predicted(workload=random_lengths(64), requests=n) for n in (128, 6400))
    assert short.benchmark is not None
    assert long.benchmark is not None
    assert short.benchmark.ttft_ms.mean > 1.3 * long.benchmark.ttft_ms.mean


def test_replicas_share_the_clients_of_a_run() -> None:
    one = predicted(workload=random_lengths(16), requests=1600).benchmark
    three = predicted(workload=random_lengths(48), requests=4800, worker={"tp": 4, "replicas": 3}).benchmark
    assert one is not None
    assert three is not None
    assert three.ttft_ms == one.ttft_ms
    assert three.throughput_tok_s == pytest.approx(3 * one.throughput_tok_s)


def test_clients_that_do_not_divide_over_the_replicas_all_count() -> None:
    """Ten clients on three replicas do what they would on three and a third: more than nine, fewer than twelve."""
    worker = {"tp": 4, "replicas": 3}
    found = [
        predicted(workload=random_lengths(clients), requests=100 * clients, worker=worker).benchmark
        for clients in (9, 10, 12)
    ]
    rates = [each.throughput_tok_s for each in found if each is not None]
    assert rates[1] == pytest.approx(rates[0] * 10 / 9, rel=0.01)
    assert rates[1] < rates[2]


def test_a_run_that_is_cut_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.simulation.deployment.LARGEST_RUN", 100)
    notes = [predicted(workload=loop(8), requests=requests).notes for requests in (100, 101)]
    assert not notes[0]
    assert "ends after" in notes[1][0]


def test_a_run_waits_for_the_prefix_as_the_steady_state_does() -> None:
    """From host memory, for one client: the same for every prompt."""
    prefix = {"prefix_tokens": 50_000, "prefix_at": ["prefill", "decode"]}
    found = [predicted(workload={**loop(1), **prefix, "prefix_tier": tier}, requests=3) for tier in ("hbm", "host")]
    seen = [(each.ttft_ms, each.benchmark.ttft_ms.mean) for each in found if each.ttft_ms and each.benchmark]
    assert seen[1][0] - seen[0][0] > 10.0
    assert seen[1][1] - seen[0][1] == pytest.approx(seen[1][0] - seen[0][0], rel=0.01)


def test_runs_need_a_closed_loop_and_workers() -> None:
    open_arrivals = {"input_tokens": 2000, "output_tokens": 300}
    with pytest.raises(SpecError, match="closed_loop"):
        predicted(workload=open_arrivals, request_rate_rps=1.0, requests=100)
