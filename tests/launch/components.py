"""Components to launch, as plans have them, of any layout."""

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

from planner.launch.address import Address, Ports
from planner.launch.command import Process
from planner.launch.component import Component
from planner.launch.process import engine_process
from specs.catalog import model
from specs.engine_table import EngineTable, engine_table
from specs.errors import SpecError
from specs.plan import PoolPlan
from specs.scenario import Pool, resolve_pool
from specs.service import Mode, Service

DEEPSEEK, QWEN, LLAMA = "deepseek-ai/DeepSeek-V3.2", "Qwen/Qwen3-235B-A22B", "meta-llama/Llama-3.1-70B"
EXPERTS = {DEEPSEEK: 256, QWEN: 128}
HERE = Address("0", "127.0.0.1", Ports(), {"ffn": "10.0.0.9", "attention": "10.0.0.8"})


def table_for(each: Component, version: str | None = None) -> EngineTable:
    """The flag table of a component: of a version, or of its engine's default for its mode."""
    return engine_table(each.service.engine, version, mode=each.mode)


def component(
    engine: str = "vllm",
    of: str = DEEPSEEK,
    role: str = "mixed",
    mode: str = "aggregated",
    *,
    gpu: str = "h200",
    count: int = 256,
    gpus_per_node: int = 8,
    length: int = 8192,
    service: dict[str, Any] | None = None,
    name: str | None = None,
    **plan: Any,
) -> Component:
    """One component; what is not given is one GPU, two replicas and 64 requests in flight."""
    asked = Service.model_validate(
        {
            "name": "coding",
            "model": of,
            "engine": engine,
            "workload": {"input_tokens": 4000, "output_tokens": 1000},
            "slo": {"ttft_ms": 1000, "tpot_ms": 50},
            **(service or {}),
        }
    )
    layout = {"tp": 1, "dp": 1, "pp": 1, "ep": 1, "moe_tp": 1, "replicas": 2, "batch": 64, **plan}
    if role == "ffn":
        gpus = layout["ep"] * layout["moe_tp"] * layout["pp"]
    else:
        gpus = layout["tp"] * layout["dp"] * layout["pp"]
        if role != "attention" and "ep" not in plan:
            layout["moe_tp"] = layout["tp"] * layout["dp"] // layout["ep"]
    pool = PoolPlan.model_validate(
        {"role": role, "gpu_pool": "gpus", "gpus_per_replica": gpus, "utilisation": 0.5, **layout}
    )
    resolved = resolve_pool(Pool(name="gpus", gpu=gpu, count=count, gpus_per_node=gpus_per_node))
    return Component(name or f"coding-{role}", asked, model(of), Mode(mode), resolved, pool, length)


def unit(engine: str = "vllm", of: str = DEEPSEEK, *, a: int = 16, ep: int = 8, moe_tp: int = 1, tp: int = 1,
         microbatches: int = 2, mode: str = "afd", units: int = 1, expert_slots: int | None = None,
         **pool: Any) -> tuple[Component, Component]:  # fmt: skip
    """The two sides of AFD units."""
    shared = {"unit": "u", "units": units, "microbatches": microbatches, **pool}
    first = component(engine, of, "attention", mode, replicas=a * units, tp=tp, **shared)
    slots = EXPERTS.get(of, 0) if expert_slots is None else expert_slots
    second = component(
        engine, of, "ffn", mode, replicas=units, ep=ep, moe_tp=moe_tp, batch=64 * a, expert_slots=slots, **shared
    )
    return first, second


def layouts(engine: str) -> Iterator[Component]:
    """Many components, of which the engine refuses some."""
    modes = {"mixed": "aggregated", "prefill": "prefill_decode", "decode": "prefill_decode"}
    for of in (DEEPSEEK, QWEN, LLAMA):
        moe = of != LLAMA
        for role, mode in modes.items():
            for tp in (1, 2, 8):
                for dp in (1, 8, 32):
                    for pp in (1, 2):
                        for ep in {1, tp * dp, max(1, tp * dp // 2)} if moe else {1}:
                            for overlap in (1, 2):
                                for extra in (0, 32) if of == DEEPSEEK and ep == tp * dp > 1 else (0,):
                                    experts = EXPERTS.get(of, 0)
                                    yield component(
                                        engine, of, role, mode, tp=tp, dp=dp, pp=pp, ep=ep, moe_tp=tp * dp // ep,
                                        expert_slots=experts + extra, batch=3 * dp * pp, microbatches=pp * overlap,
                                        chunk_tokens=0 if role == "decode" else 4096 * dp,
                                        service={"speculative": {"draft_tokens": 1, "accept_length": 1.5}}
                                        if of == DEEPSEEK and extra else None,
                                    )  # fmt: skip


def launched(engine: str, version: str | None = None) -> Iterator[tuple[Component, EngineTable, Process]]:
    """The processes of all nodes of `layouts` that the engine does not refuse; AFD units included."""
    for each in layouts(engine):
        table = table_for(each, version)
        for rank in range(each.nodes):
            try:
                yield each, table, engine_process(each, table, Address(str(rank), "10.0.0.1", host=f"10.0.0.{rank}"))
            except SpecError:
                break
    for sides in _units_of(engine, version):
        for each, partner in (sides, sides[::-1]):
            table = table_for(each, version)
            for rank in range(each.nodes):
                address = Address(str(rank), "10.0.0.1", peers={"ffn": "10.0.0.9"})
                yield each, table, engine_process(each, table, address, partner=partner)


def _units_of(engine: str, version: str | None) -> Iterator[tuple[Component, Component]]:
    """AFD units that a version launches."""
    if engine == "vllm" and version in (None, "0.30.0"):
        for mode in ("afd", "prefill_decode_afd"):
            for a, ep, tp, microbatches in ((8, 8, 1, 1), (12, 8, 1, 2), (1, 8, 8, 1), (32, 16, 1, 2), (2, 1, 1, 1)):
                yield unit(a=a, ep=ep, tp=tp, microbatches=microbatches, mode=mode)
    if engine == "sglang" and version is not None and "+" in version:
        for a in (1, 4, 8):
            yield unit("sglang", QWEN, a=a, ep=a, microbatches=1)


def parsed(process: Process, table: EngineTable, program: str = "server") -> dict[str, Any]:
    """The flags of a process with their values, read back from its shell text by the table alone."""
    words = shlex.split(process.shell().replace("\\\n", " "))
    if words[0] == "env":
        words = words[1:]
        while re.fullmatch(r"[A-Z0-9_]+=.*", words[0], re.S):
            words = words[1:]
    entry = table.programs[program]
    if "launcher" in table.programs and words[0] == table.programs["launcher"].command[0]:
        words = words[1:]
    assert words[: len(entry.command)] == list(entry.command)
    words = words[len(entry.command) :]
    found: dict[str, Any] = {"": words[: entry.positional]}
    words = words[entry.positional :]
    while words:
        flag, values = words.pop(0), []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        assert flag in entry.spellings, flag
        described = entry.flags[entry.spellings[flag]]
        assert described.many or len(values) <= 1, (flag, values)
        for value in values or [None]:
            assert described.refusal(value) is None, (flag, value)
        assert described.many or flag not in found, flag
        if described.kind == "json":
            found[flag] = json.loads(values[0])
        elif described.many:
            found.setdefault(flag, []).append(values)
        else:
            found[flag] = values[0] if values else True
    return found
