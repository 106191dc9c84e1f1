"""A plan in the terminal: what to deploy, what it reaches, how good that is and why."""

from collections import Counter

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from planner.view.explain_view import proof_panel, why_panels
from planner.view.figures import MODE_NAMES, layout, milliseconds, number, objective_value, percent
from planner.view.pools_view import pools_view
from specs.plan import Deployment, Plan, PoolPlan, Role, ServicePlan, Status
from specs.scenario import Scenario
from specs.service import Slo

BAR_WIDTH = 40

_STYLES = {
    Status.OPTIMAL: "bold green",
    Status.FEASIBLE: "bold yellow",
    Status.INFEASIBLE: "bold red",
    Status.TIME_LIMIT: "bold red",
}


def plan_view(plan: Plan, scenario: Scenario | None = None) -> RenderableType:
    """Draw a plan; with the scenario it came from, times are set against their SLO."""
    slos = {service.name: service.slo for service in scenario.services} if scenario else {}
    parts: list[RenderableType] = [headline(plan)]
    for service in plan.services:
        parts += [Text(), *_service(service, slos.get(service.name))]
    if plan.services:
        parts += [Text(), _gpus(plan), _price(plan)]
    parts += [Text(), proof_panel(plan), *why_panels(plan)]
    return Group(*parts)


def headline(plan: Plan) -> Text:
    """Write the outcome in one line: status, objective value, gap and seconds."""
    text = Text.assemble((plan.status.value.replace("_", " ").upper(), _STYLES[plan.status]))
    certificate = plan.certificate
    if certificate.incumbent is not None:
        text.append(f"  {objective_value(plan.objective, certificate.incumbent)}", "bold")
    if certificate.gap is not None:
        text.append(f"  within {percent(certificate.gap)} of the best possible")
    aim = "maximize" if plan.objective.maximizing else "minimize"
    text.append(f"  ({aim} {plan.objective.quantity}", "dim")
    seconds = plan.provenance.seconds
    if seconds:
        total_s = seconds["total"] if "total" in seconds else sum(seconds.values())
        text.append(f", {number(total_s)} s", "dim")
    return text.append(")", "dim")


def _service(service: ServicePlan, slo: Slo | None) -> list[RenderableType]:
    text = Text.assemble(
        (service.name, "bold cyan"),
        f"  {MODE_NAMES[str(service.mode)]}",
        (f"  {number(service.throughput_tok_s)} tokens/s", "bold"),
        f"  {number(service.request_rate_rps)} requests/s",
    )
    times = Text("  ").append_text(_times(service, slo))
    parts: list[RenderableType] = [text, times]
    periods = {deployment.period for deployment in service.deployments}
    for deployment in service.deployments:
        if len(service.deployments) > 1:
            period = f"period {deployment.period}: " if len(periods) > 1 else ""
            parts.append(
                Text.assemble(
                    f"  {period}{MODE_NAMES[deployment.mode.value]}, {percent(deployment.share)} of the requests, "
                    f"{number(deployment.throughput_tok_s)} tokens/s  ",
                    _times(deployment, slo),
                )
            )
        parts.append(pools_view(deployment.pools, utilisation=True))
        parts += [Text(f"  {line}", style="dim") for line in _units(deployment)]
        if deployment.binding:
            parts.append(Padding(Text(f"held back by {'; '.join(deployment.binding)}", style="dim"), (0, 0, 0, 2)))
    return parts


def _times(timed: ServicePlan | Deployment, slo: Slo | None) -> Text:
    text = Text()
    for name, value, limit in (
        ("TTFT", timed.ttft_ms, slo.ttft_ms if slo else None),
        ("TPOT", timed.tpot_ms, slo.tpot_ms if slo else None),
    ):
        if value is None:
            continue
        text.append("  " if text else "").append(f"{name} ")
        if limit is None:
            text.append(milliseconds(value), "bold")
            continue
        meets = value <= limit * (1 + 1e-6)
        text.append(milliseconds(value), "bold green" if meets else "bold red")
        text.append(f" {'<=' if meets else '> '} {milliseconds(limit)} {'met' if meets else 'MISSED'}", "dim")
    if slo is not None and text:
        text.append(f"  ({slo.statistic.value})", "dim")
    return text


def _units(deployment: Deployment) -> list[str]:
    """One sentence for each kind of AFD unit: what stands in lockstep."""
    members: dict[str, list[PoolPlan]] = {}
    for pool in deployment.pools:
        if pool.unit is not None:
            members.setdefault(pool.unit, []).append(pool)
    lines = []
    for unit, pools in members.items():
        units = pools[0].units or 1
        inside = " + ".join(
            f"{pool.replicas // units} {pool.role.value} of {pool.gpus_per_replica} GPUs"
            for pool in sorted(pools, key=lambda pool: pool.role is Role.FFN)
        )
        lines.append(f"AFD unit {unit}: {units} x ({inside}), {pools[0].microbatches} micro-batches")
    return lines


def _gpus(plan: Plan) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("pool", style="bold", overflow="fold")
    table.add_column("bar", no_wrap=True)
    table.add_column("count", no_wrap=True)
    for name in dict.fromkeys((*plan.gpus_used, *plan.gpus_idle)):
        used, idle = plan.gpus_used.get(name, 0), plan.gpus_idle.get(name, 0)
        filled = round(BAR_WIDTH * used / max(1, used + idle))
        filled = min(max(filled, used > 0), BAR_WIDTH - (idle > 0))  # one GPU shows, used or idle
        bar = Text("█" * filled, style="cyan").append("░" * (BAR_WIDTH - filled), "dim")
        table.add_row(name, bar, f"{used} GPUs used, {idle} idle")
    return table


def _price(plan: Plan) -> Text:
    parts = [f"{number(plan.cost_per_hour)} per hour"]
    if plan.cost_per_million_tokens is not None:
        parts.append(f"{number(plan.cost_per_million_tokens)} per million output tokens")
    parts.append(f"{number(plan.power_kw)} kW")
    return Text("  ".join(parts))


def layout_summary(plan: Plan) -> str:
    """Write what is deployed in a few words: `prefill 4x(tp2 dp4 ep8), decode 2x(dp16 ep16)`."""
    counts: Counter[tuple[str, str]] = Counter()
    for service in plan.services:
        for deployment in service.deployments:
            for pool in deployment.pools:
                counts[pool.role.value, layout(pool)] += pool.replicas
    return ", ".join(f"{role} {count}x({degrees})" for (role, degrees), count in counts.items())
