"""What a plan says, in sentences."""

from __future__ import annotations

from planner.view.figures import UNITS, number, percent
from specs.plan import OperatorSource, Plan, Role, Status
from specs.scenario import Pool, Scenario, resolve_pool
from specs.service import Mode, Service
from specs.workload import DiscreteLength, MeanLength, resolve_workload

MODE_WORDS: dict[str, str] = {
    Mode.AGGREGATED.value: "Every instance reads prompts and writes answers (aggregated).",
    Mode.PREFILL_DECODE.value: "Some instances read prompts, others write the answers (prefill-decode disaggregation).",
    Mode.AFD.value: "Attention and experts run on GPUs of their own (attention-FFN disaggregation).",
    Mode.PREFILL_DECODE_AFD.value: "Some instances read prompts; answers are written with attention and experts on "
    "GPUs of their own (prefill-decode with attention-FFN disaggregation).",
    "mixed": "Several serving modes share the requests.",
}
ROLE_WORDS = {
    Role.MIXED: "reads prompts and writes answers",
    Role.PREFILL: "reads prompts (prefill)",
    Role.DECODE: "writes answers (decode)",
    Role.ATTENTION: "attention of the answers",
    Role.FFN: "experts of the answers (FFN)",
}


def headline(plan: Plan, scenario: Scenario) -> str:
    """The answer in one or two sentences."""
    names = ", ".join(service.name for service in scenario.services)
    if plan.status is Status.INFEASIBLE:
        return f"There is no plan that serves {names} within these limits on these GPUs."
    if not plan.services:
        return f"No plan for {names} was found in the time allowed; there may be one."
    gpus = ", ".join(f"{used} of {used + plan.gpus_idle.get(name, 0)} {name}" for name, used in plan.gpus_used.items())
    tokens = sum(service.throughput_tok_s for service in plan.services)
    return f"{names}: {number(tokens)} output tokens/s on {gpus} GPUs, for {number(plan.cost_per_hour)} per hour." + (
        " Proven best." if plan.status is Status.OPTIMAL else " A better plan may exist."
    )


def price_facts(plan: Plan) -> list[tuple[str, str]]:
    """Figures that stand in large type."""
    facts = [
        ("output tokens/s", number(sum(service.throughput_tok_s for service in plan.services))),
        ("requests/s", number(sum(service.request_rate_rps for service in plan.services))),
        ("cost per hour", number(plan.cost_per_hour)),
    ]
    if plan.cost_per_million_tokens is not None:
        facts.append(("cost per million output tokens", number(plan.cost_per_million_tokens)))
    used = sum(plan.gpus_used.values())
    facts.append(("GPUs used", f"{number(used)} of {number(used + sum(plan.gpus_idle.values()))}"))
    facts.append(("power [kW]", number(plan.power_kw)))
    return facts


def objective_unit(scenario: Scenario) -> str:
    """Unit of the objective; throughput is weighted where the services' worths differ from 1."""
    unit = UNITS[scenario.objective.quantity]
    weighted = scenario.objective.maximizing and any(service.weight != 1.0 for service in scenario.services)
    return f"weighted {unit}" if weighted else unit


def limit_words(value_ms: float, limit_ms: float) -> str:
    """How a time stands to its limit."""
    share = value_ms / limit_ms
    if share > 1 + 1e-6:
        return f"misses the limit of {number(limit_ms)} ms"
    return f"{percent(share)} of the {number(limit_ms)} ms allowed"


def proof_sentences(plan: Plan) -> list[str]:
    """What is proven, and what is not."""
    certificate = plan.certificate
    if plan.status is Status.INFEASIBLE:
        said = ["That there is no plan is proven over everything that was searched, within the cost model."]
    elif certificate.incumbent is None or certificate.bound is None or certificate.gap is None:
        said = ["Nothing is proven: the time ran out first."]
    else:
        best = "more" if plan.objective.maximizing else "less"
        unit = UNITS[plan.objective.quantity] if plan.scenario is None else objective_unit(plan.scenario)
        said = [
            f"No deployment among those searched has {best} than {number(certificate.bound)} {unit}; this one has "
            f"{number(certificate.incumbent)}: it is within {percent(certificate.gap)} of the best possible. The proof "
            "is about the cost model."
        ]
    if certificate.measurement_error is None:
        said.append("How far the cost model is from these GPUs and this engine has not been measured.")
    else:
        said.append(
            f"On measured deployments of these GPUs and this engine, the model's throughput was off by "
            f"{percent(certificate.measurement_error)} (median)."
        )
    options = certificate.space.get("options in the program")
    if isinstance(options, int | float) and options:
        said.append(f"{number(options)} candidate layouts stood in the final program.")
    return said


def provenance_sentences(plan: Plan) -> list[str]:
    """Where the times of the plan's operators come from."""
    operators = plan.provenance.operators
    said = [f"Times of the GPUs' work: {plan.provenance.kernels}."]
    analytic = sum(each.count for each in operators if each.source is OperatorSource.ANALYTIC)
    total = sum(each.count for each in operators)
    if total and analytic:
        said.append(f"{analytic} of {total} operators are computed from data sheets, not measured.")
    outside = max((each.outside for each in operators), default=1.0)
    if outside > 1.0:
        said.append(f"The furthest reaches {number(outside)} times beyond what was measured.")
    return said + list(plan.provenance.notes)


def workload_words(service: Service) -> str:
    """The requests of a service."""
    workload = resolve_workload(service.workload)
    parts = [
        f"prompts of {_length(workload.input_tokens)} tokens",
        f"answers of {_length(workload.output_tokens)} tokens",
    ]
    if workload.mean_prefix_tokens:
        parts.insert(0, f"{_length(workload.prefix_tokens)} cached tokens")
    if service.demand_rps is not None:
        parts.append(f"{number(service.demand_rps)} requests/s expected")
    return ", ".join(parts)


def _length(length: int | MeanLength | DiscreteLength) -> str:
    return number(length) if isinstance(length, int) else f"{number(length.mean)} (mean)"


def cost_words(pool: Pool) -> str:
    """The price of a pool's GPUs."""
    resolved = resolve_pool(pool)
    source = "" if pool.cost_per_gpu_hour is not None else ", a typical price"
    return f" at {number(resolved.cost_per_gpu_hour)} {UNITS['cost']} each{source}"
