"""Weights and KV cache against the memory of one GPU.

Capacity = memory x share - weights - reserve; where one request of the longest context does not fit, the engine
refuses to start, and where the requests in flight do not fit at half their length (a request that is being decoded is
on average at least half as long as at its end), they cannot be held.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.check.expected import Expected, experts_of
from planner.check.findings import Findings
from planner.check.instance import Instance
from planner.check.layout import Layout
from planner.check.model_memory import Shards, cache_bytes, weight_bytes
from planner.check.place import Place
from specs import catalog
from specs.errors import SpecError
from specs.hardware import GpuSpec
from specs.model import ModelSpec, Precision
from specs.plan import Role
from specs.service import Engine
from specs.workload import Workload, resolve_workload

RULE = "memory"
RESERVE_BYTES = 1e9
"""Taken by every engine for its CUDA context and graphs, at the least; activations come on top."""
GIB = 2.0**30


@dataclass(frozen=True)
class Demand:
    """Memory of one GPU of an instance.

    Args:
        available: bytes that the engine takes for weights and cache.
        weights: bytes of weights.
        request: bytes of one request of the longest context.
    """

    available: float
    weights: float
    request: float

    @property
    def free(self) -> float:
        """Bytes left for KV cache."""
        return self.available - self.weights


def check_memory(
    instance: Instance, layout: Layout, gpu: GpuSpec | None, expected: Expected | None, findings: Findings
) -> None:
    """Whether the memory of one GPU holds what the flags ask for.

    Args:
        instance: what is checked.
        layout: of its first node.
        gpu: type of its GPUs; None where the files do not say.
        expected: the pool of the plan that it was matched with.
        findings: where violations go.
    """
    model = model_of(instance, expected)
    if gpu is None or model is None:
        what = "GPU type" if gpu is None else "model"
        reason = f"the files do not say a {what} of the catalogue; --plan or --cluster may"
        findings.skip(instance.place.file, f"memory of {instance.component}", reason)
        return
    if expected is not None:
        _check_fit(instance, layout, gpu, model, expected, expected.service.precision, findings)
        _check_checkpoint(instance, layout, model, expected, findings)
        return
    published = Precision.FP8 if layout.values.get("quantization") == "fp8" else model.native_precision
    tried, narrow = Findings(), Findings()
    _check_fit(instance, layout, gpu, model, None, published, tried)
    _check_fit(instance, layout, gpu, model, None, Precision.FP4, narrow)
    for found in tried.violations.values():
        # The files name a model, and it may be a checkpoint of fewer bits that is behind the name.
        note = findings.wrong if narrow.violations else findings.doubtful
        note(RULE, Place(found.file, found.line), f"{found.message} (with {published.value} weights)", found.field)
    for found in tried.warnings.values():
        findings.doubtful(RULE, Place(found.file, found.line), found.message, found.field)


def _check_checkpoint(
    instance: Instance, layout: Layout, model: ModelSpec, expected: Expected, findings: Findings
) -> None:
    """Weights of a precision that neither the model is published in nor the engine converts to."""
    asked = expected.service.precision
    if asked is not model.native_precision and layout.values.get("quantization") != asked.value:
        findings.doubtful(
            "checkpoint",
            instance.place,
            f"{instance.component}: the plan is for {asked.value} weights, and {model.id} is published in "
            f"{model.native_precision.value}: the name must lead to such a checkpoint",
        )


def _check_fit(
    instance: Instance,
    layout: Layout,
    gpu: GpuSpec,
    model: ModelSpec,
    expected: Expected | None,
    precision: Precision,
    findings: Findings,
) -> None:
    """Weights, then one request, then all requests in flight."""
    demand = _demand(instance, layout, gpu, model, precision)
    if demand is None:
        return
    place = layout.place("memory_fraction" if "memory_fraction" in layout.places else "free_fraction", instance.place)
    if demand.free <= 0:
        findings.wrong(
            RULE,
            layout.place("tp", place),
            f"{instance.component}: weights take {demand.weights / GIB:.1f} GiB of each GPU, and "
            f"{demand.available / GIB:.1f} GiB of its {gpu.memory_bytes / GIB:.1f} GiB are for weights and KV cache",
        )
        return
    length, sequences = layout.number("max_length"), layout.number("sequences")
    if length is None or demand.request <= 0:
        return
    if demand.request > demand.free:
        findings.wrong(
            RULE,
            layout.place("max_length", place),
            f"{instance.component}: one request of {length:.0f} tokens takes {demand.request / GIB:.1f} GiB of KV "
            f"cache on each GPU, and {demand.free / GIB:.1f} GiB are free",
        )
        return
    if sequences is not None:
        _check_sequences(instance, layout, model, expected, demand, findings)


def _check_sequences(
    instance: Instance,
    layout: Layout,
    model: ModelSpec,
    expected: Expected | None,
    demand: Demand,
    findings: Findings,
) -> None:
    """Requests in flight, at full and at half length; a prefix that the plan says is shared counts once."""
    length, sequences = layout.number("max_length"), layout.number("sequences")
    assert length is not None
    assert sequences is not None
    kv, shards = _kv_dtype(layout), layout.shards
    shared = _shared_prefix(expected)
    common = cache_bytes(model, shared, kv, shards) if shared else 0.0
    own = demand.request - common
    least = common + sequences * own * 0.5
    if expected is not None:
        # The mean context of a request in flight, from the plan's own workload, is no less than its prompt.
        workload = resolve_workload(expected.service.workload)
        prompt = workload.mean_prefix_tokens + workload.mean_input_tokens - shared
        least = common + sequences * cache_bytes(model, max(prompt, 1.0), kv, shards)
    holds = max(0, int((demand.free - common) / own)) if own > 0 else int(sequences)
    if least > demand.free:
        findings.wrong(
            RULE,
            layout.place("sequences", instance.place),
            f"{instance.component}: {sequences:.0f} requests in flight on a rank take at least {least / GIB:.1f} GiB "
            f"of KV cache on each GPU, and {demand.free / GIB:.1f} GiB are free: {holds} of the longest fit",
        )
    elif holds < sequences:
        findings.doubtful(
            RULE,
            layout.place("sequences", instance.place),
            f"{instance.component}: of {sequences:.0f} requests in flight on a rank {holds} fit at their full length "
            f"of {length:.0f} tokens",
        )


def _shared_prefix(expected: Expected | None) -> float:
    """Tokens of a prefix of which all requests share one copy."""
    if expected is None:
        return 0.0
    workload: Workload = resolve_workload(expected.service.workload)
    return workload.mean_prefix_tokens if workload.prefix_sharing != "none" else 0.0


def model_of(instance: Instance, expected: Expected | None) -> ModelSpec | None:
    """The model of the plan, or of the catalogue by the name in the files; None where it is neither."""
    if expected is not None:
        return expected.model
    name = model_name(instance)
    if name is None or name.startswith((".", "/", "~")) or name.endswith(".json"):
        return None  # a path of the machine that runs it
    try:
        return catalog.model(name)
    except SpecError:
        return None


def model_name(instance: Instance) -> str | None:
    """The model that an instance loads."""
    leader = instance.leader
    if leader is None:
        return None
    arguments = leader.arguments
    return arguments.text("model") or (arguments.positional[0].value if arguments.positional else None)


def _kv_dtype(layout: Layout) -> Precision:
    said = layout.values.get("kv_dtype")
    return Precision(said) if said in list(Precision) else Precision.FP8 if "fp8" in str(said) else Precision.BF16


def _demand(instance: Instance, layout: Layout, gpu: GpuSpec, model: ModelSpec, precision: Precision) -> Demand | None:
    leader = instance.leader
    if leader is None:
        return None
    shards, kv = layout.shards, _kv_dtype(layout)
    slots = int(layout.number("redundant") or 0) + experts_of(model)
    role = layout.role if layout.role in (Role.ATTENTION, Role.FFN) else None
    weights = weight_bytes(model, precision, shards, role, slots)
    share = layout.number("memory_fraction")
    free = layout.number("free_fraction")
    if leader.engine is Engine.TRTLLM and free is not None:
        available = weights + max(0.0, gpu.memory_bytes - weights - RESERVE_BYTES) * free
        available = min(available, gpu.memory_bytes - RESERVE_BYTES)
    elif share is not None:
        reserve = RESERVE_BYTES if leader.engine is Engine.VLLM else 0.0  # SGLang's share leaves the rest for them
        available = gpu.memory_bytes * min(max(share, 0.0), 1.0) - reserve
    else:
        return None
    length = layout.number("max_length") or 0.0
    request = 0.0 if role is Role.FFN else cache_bytes(model, length, kv, Shards(shards.tp, pp=shards.pp))
    return Demand(available, weights, request)


def check_share(instance: Instance, layout: Layout, findings: Findings) -> None:
    """The share of memory is a share, and leaves room."""
    for name in ("memory_fraction", "free_fraction"):
        if name not in layout.places:
            continue
        share = layout.number(name)
        place = layout.place(name, instance.place)
        if share is None:
            findings.wrong(RULE, place, f"{instance.component} does not say how much memory it takes", name)
        elif not 0.5 <= share <= 0.98:
            findings.wrong(RULE, place, f"must be from 0.5 to 0.98 of a GPU's memory, got {share:g}", name)
