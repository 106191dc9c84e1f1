"""The page: a plan in the words of somebody who has to decide on it."""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files

from planner.launch.component import Launch, launch
from planner.launch.placement import place
from planner.report.charts import mode_bars, pareto_curves, share_bar
from planner.report.floor import floor_plans
from planner.report.markup import Markup, tag
from planner.report.words import (
    MODE_WORDS,
    ROLE_WORDS,
    cost_words,
    headline,
    limit_words,
    objective_unit,
    price_facts,
    proof_sentences,
    provenance_sentences,
    workload_words,
)
from planner.view.explain_view import DIMENSION_NAMES, alike
from planner.view.figures import MODE_NAMES, UNITS, layout, milliseconds, number, percent
from planner.view.pareto_chart import user_speed_slo
from specs.comparison import Comparison
from specs.errors import SpecError
from specs.plan import Plan, Relaxation, ServicePlan
from specs.scenario import Scenario
from specs.service import Service


def report_html(plan: Plan, comparison: Comparison | None = None) -> str:
    """One self-contained page: no script, no picture and no font from elsewhere.

    Args:
        plan: with its scenario; found or infeasible.
        comparison: of the serving modes on the same scenario; without one the section is left out.

    Raises:
        SpecError: the plan does not carry its scenario.
    """
    if plan.scenario is None:
        raise SpecError(
            "is missing: a report needs the question beside the answer; accepted: a plan written by `cleave plan`",
            field="scenario",
        )
    sections = [_answer(plan, plan.scenario)]
    if plan.services:
        wanted = launch(plan)
        sections += [_services(plan, plan.scenario), _floor(wanted), _limits(plan)]
    else:
        sections.append(_changes(plan.explanation.relaxations, plan.explanation.notes))
    if comparison is not None:
        sections.append(_modes(comparison, plan.scenario))
    sections += [_proof(plan), _question(plan.scenario)]
    title = f"Deployment plan: {', '.join(service.name for service in plan.scenario.services)}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(files("planner.report").joinpath("page.css").read_text())),
    )
    footer = tag("footer", f"Cleave {version('cleave')}. Times and rates are predictions of its cost model.")
    body = tag("body", tag("main", tag("h1", title), *sections, footer))
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en").text + "\n"


def _section(title: str, *children: Markup | str | None) -> Markup:
    return tag("section", tag("h2", title), *children)


def _answer(plan: Plan, scenario: Scenario) -> Markup:
    facts = [tag("div", tag("dt", name), tag("dd", value)) for name, value in price_facts(plan)]
    return tag(
        "section",
        tag("p", headline(plan, scenario), class_="lead" if plan.services else "lead none"),
        tag("dl", *facts, class_="cards") if plan.services else None,
        class_="answer",
    )


def _services(plan: Plan, scenario: Scenario) -> Markup:
    asked = {service.name: service for service in scenario.services}
    return _section("What is served", *(_service(planned, asked[planned.name]) for planned in plan.services))


def _service(planned: ServicePlan, service: Service) -> Markup:
    times = []
    for name, words, value, limit in (
        ("TTFT", "wait for the first token", planned.ttft_ms, service.slo.ttft_ms),
        ("TPOT", "time per further token", planned.tpot_ms, service.slo.tpot_ms),
    ):
        if value is None or limit is None:
            continue
        times.append(
            tag(
                "tr",
                tag("th", f"{name}, {words}", scope="row"),
                tag("td", milliseconds(value)),
                tag("td", share_bar(value, limit)),
                tag("td", f"{limit_words(value, limit)} ({service.slo.statistic.value})"),
            )
        )
    pools = [
        tag(
            "tr",
            tag("td", ROLE_WORDS[pool.role]),
            tag("td", pool.gpu_pool),
            tag("td", f"{pool.replicas} x {pool.gpus_per_replica} = {pool.gpus}", class_="figure"),
            tag("td", layout(pool)),
            tag("td", number(pool.batch), class_="figure"),
            tag("td", percent(pool.utilisation), class_="figure"),
        )
        for deployment in planned.deployments
        for pool in deployment.pools
    ]
    columns = ("what it does", "GPUs of", "instances x GPUs", "layout", "requests at once", "busy")
    return tag(
        "article",
        tag("h3", f"{planned.name}: {service.model}"),
        tag(
            "p",
            f"{number(planned.request_rate_rps)} requests/s, {number(planned.throughput_tok_s)} output tokens/s. "
            f"{MODE_WORDS[str(planned.mode)]}",
        ),
        tag("table", *times, class_="times"),
        tag(
            "div",
            tag(
                "table",
                tag("thead", tag("tr", *(tag("th", name, scope="col") for name in columns))),
                tag("tbody", *pools),
            ),
            class_="wide",
        ),
    )


def _floor(wanted: Launch) -> Markup:
    try:
        drawing = floor_plans(wanted, place(wanted))
    except SpecError as error:
        drawing = tag("p", error.message)
    return _section("Where it runs", drawing)


def _limits(plan: Plan) -> Markup:
    explanation = plan.explanation
    rows = [tag("tr", tag("th", b.what, scope="row"), tag("td", b.detail)) for b in explanation.binding]
    if not rows:
        held = dict.fromkeys(words for s in plan.services for d in s.deployments for words in d.binding)
        rows = [tag("tr", tag("th", words, scope="row"), tag("td", "")) for words in held]
    changes = [
        tag(
            "tr",
            tag("td", each.change),
            tag("td", number(each.objective_before), class_="figure"),
            tag("td", "no plan" if each.objective_after is None else number(each.objective_after), class_="figure"),
            tag("td", each.note),
        )
        for each in explanation.what_if
    ]
    unit = UNITS[plan.objective.quantity] if plan.scenario is None else objective_unit(plan.scenario)
    return _section(
        "What limits it",
        tag("table", *rows, class_="facts") if rows else tag("p", "Nothing in particular was found to hold it back."),
        tag("h3", f"What a change is worth [{unit}]") if changes else None,
        tag("table", *changes) if changes else None,
    )


def _changes(relaxations: tuple[Relaxation, ...], notes: tuple[str, ...]) -> Markup:
    rows = [
        tag(
            "tr",
            tag("td", each.service or "all services"),
            tag("td", MODE_NAMES[each.mode.value]),
            tag("td", DIMENSION_NAMES.get(each.dimension, each.dimension)),
            tag("td", f"{number(each.current)} {each.unit}", class_="figure"),
            tag("td", f"{number(each.needed)} {each.unit}", class_="figure"),
            tag("td", each.detail),
        )
        for each in relaxations
        if each.needed is not None
    ]
    columns = ("service", "serving mode", "limit", "now", "needed", "")
    table = tag(
        "div",
        tag("table", tag("thead", tag("tr", *(tag("th", name, scope="col") for name in columns))), tag("tbody", *rows)),
        class_="wide",
    )
    hopeless = [
        f"{group[0].service or 'all services'}, {MODE_NAMES[group[0].mode.value]}: "
        f"{', '.join(DIMENSION_NAMES.get(each.dimension, each.dimension) for each in group)}: {group[0].detail}"
        for group in alike(relaxations)
        if group[0].needed is None
    ]
    return _section(
        "What would make a plan possible",
        tag("p", "Each line is one change that suffices alone, and the smallest of its kind.") if rows else None,
        table if rows else tag("p", "No single change that would suffice was found."),
        tag("h3", "What does not suffice alone") if hopeless else None,
        tag("ul", *(tag("li", words) for words in hopeless)) if hopeless else None,
        *(tag("p", note) for note in notes),
    )


def _modes(comparison: Comparison, scenario: Scenario) -> Markup:
    unit = objective_unit(scenario)
    rows = [
        tag(
            "tr",
            tag("th", MODE_NAMES[result.mode.value], scope="row"),
            tag("td", "-" if result.value is None else number(result.value), class_="figure"),
            tag("td", result.reason),
        )
        for result in comparison.modes
    ]
    curves = pareto_curves(comparison, user_speed_slo(scenario))
    return _section(
        "How it compares with other ways of serving",
        mode_bars([(result.mode, result.value) for result in comparison.modes], unit),
        tag("table", *rows, class_="facts"),
        tag("h3", "Speed against yield") if curves else None,
        tag(
            "p",
            "Every point is the best plan at one speed per user. Up and to the right is better: a GPU yields more, "
            "or a user waits less.",
        )
        if curves
        else None,
        curves,
        *(tag("p", note, class_="note") for note in comparison.notes),
    )


def _proof(plan: Plan) -> Markup:
    sentences = (*proof_sentences(plan), *provenance_sentences(plan))
    return _section("How sure this is", tag("ul", *(tag("li", sentence) for sentence in sentences)))


def _question(scenario: Scenario) -> Markup:
    services = [
        tag(
            "li",
            f"{service.name}: {service.model} in {service.precision.value} on {service.engine.value}; "
            f"{workload_words(service)}",
        )
        for service in scenario.services
    ]
    pools = [tag("li", f"{pool.name}: {pool.count} x {pool.gpu}{cost_words(pool)}") for pool in scenario.cluster.pools]
    aim = "maximize" if scenario.objective.maximizing else "minimize"
    return _section(
        "What was asked",
        tag("p", f"To {aim} {scenario.objective.quantity}, with"),
        tag("ul", *services, *pools),
        tag("details", tag("summary", "The whole scenario"), tag("pre", scenario.to_json())),
    )
