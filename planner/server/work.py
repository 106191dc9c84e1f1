"""What worker processes do: from plain data to plain data. Everything heavy is imported in here."""

import base64
import importlib
import json
import math
from collections.abc import Callable
from typing import Any

from specs.errors import SpecError
from specs.plan import Plan, Status
from specs.prediction import Configuration
from specs.scenario import Scenario

Arguments = dict[str, Any]
Report = Callable[[str, float | None, float | None], None]

SOLVE = "solve"
"""The lane of plans and comparisons."""
QUICK = "quick"
"""The lane of predictions and of reading, which are done in a moment and are not to wait for them."""
FILES = "files"
"""The lane of what is made of a plan: large plans of others must not keep predictions waiting."""
LANES: dict[str, tuple[str, ...]] = {
    SOLVE: ("planner.api", "specs.catalog"),
    QUICK: ("planner.prediction", "specs.catalog", "specs.load"),
    FILES: ("planner.render", "planner.report", "specs.catalog", "specs.load"),
}
"""Modules that a lane needs, imported before the first question comes."""


def unheard(stage: str, incumbent: float | None, bound: float | None) -> None:
    """Progress that nobody needs to know about."""


def faults(error: SpecError) -> list[Arguments]:
    """Everything that an error speaks of, as plain data."""
    return [{"detail": part.message, "field": part.field, "line": part.line} for part in error.parts or (error,)]


def prepare(lane: str) -> None:
    """Import what a lane needs."""
    for module in LANES[lane]:
        importlib.import_module(module)


def point(time_s: float, stage: str, incumbent: float | None, bound: float | None) -> dict[str, Any]:
    """One moment of a search, with None for what is not known yet."""
    found = None if incumbent is None or not math.isfinite(incumbent) else incumbent
    limit = None if bound is None or not math.isfinite(bound) else bound
    gap = abs(limit - found) / abs(found) if found and limit is not None else None
    return {"time_s": round(time_s, 3), "stage": stage, "incumbent": found, "bound": limit, "gap": gap}


def plan(arguments: Arguments, report: Report) -> Arguments:
    """The best plan, or the best few."""
    from planner import api
    from specs.comparison import Alternatives

    scenario = Scenario.model_validate(arguments["scenario"])
    gap, time_limit_s = arguments["gap"], arguments["time_limit_s"]
    if arguments["alternatives"] is not None:
        plans = api.alternatives(
            scenario, arguments["alternatives"], gap=gap, time_limit_s=time_limit_s, progress=report
        )
        if plans and plans[0].services:
            found = Alternatives.of(tuple(each for each in plans if each.services))
            dumped = found.model_dump(mode="json", by_alias=True)["alternatives"]
            return {"status": plans[0].status.value, "plan": dumped[0]["plan"], "alternatives": dumped}
    if arguments["explain"] == "what_if":
        best = api.explain(scenario, gap=gap, time_limit_s=time_limit_s, progress=report)
    else:
        best = api.plan(
            scenario,
            gap=gap,
            time_limit_s=time_limit_s,
            formulation=arguments["formulation"],
            explain=arguments["explain"] == "binding",
            progress=report,
        )
    return {"status": best.status.value, "plan": best.model_dump(mode="json", by_alias=True)}


def compare(arguments: Arguments, report: Report) -> Arguments:
    """Every mode side by side."""
    from planner import api

    found = api.compare(
        Scenario.model_validate(arguments["scenario"]),
        gap=arguments["gap"],
        time_limit_s=arguments["time_limit_s"],
        pareto=arguments["pareto"],
        progress=report,
    )
    status = "done"
    if found.best is None:
        late = any(result.status is Status.TIME_LIMIT for result in found.modes)
        status = Status.TIME_LIMIT.value if late else Status.INFEASIBLE.value
    return {"status": status, "comparison": found.model_dump(mode="json", by_alias=True)}


def predict(arguments: Arguments, report: Report) -> Arguments:
    """One configuration."""
    from planner.prediction import predict

    found = predict(Configuration.model_validate(arguments["configuration"]))
    status = "done" if found.feasible else Status.INFEASIBLE.value
    return {"status": status, "prediction": found.model_dump(mode="json", by_alias=True)}


def render(arguments: Arguments, report: Report) -> Arguments:
    """The launch files of a plan, as an archive in base 64."""
    from planner.render import Target, render
    from planner.server.archive import archive

    files = render(_plan(arguments), Target(arguments["target"]), engine_version=arguments["engine_version"])
    return {"zip": base64.b64encode(archive(files)).decode("ascii")}


def report_page(arguments: Arguments, report: Report) -> Arguments:
    """The report on a plan, as HTML; with a comparison, the other modes are in it."""
    from planner.report import report_html
    from specs.comparison import Comparison

    beside = arguments["comparison"]
    return {"html": report_html(_plan(arguments), None if beside is None else Comparison.model_validate(beside))}


def placement(arguments: Arguments, report: Report) -> Arguments:
    """Where a plan sits."""
    from planner.server.placement import placement

    return {"placement": placement(_plan(arguments)).model_dump(mode="json")}


def read_scenario(arguments: Arguments, report: Report = unheard) -> Arguments:
    """A text as a scenario, every default written out."""
    from specs.load import parse_scenario

    scenario = parse_scenario(arguments["text"], model_files=False)
    return {"document": scenario.model_dump(mode="json", by_alias=True, exclude_none=True)}


def read_configuration(arguments: Arguments, report: Report = unheard) -> Arguments:
    """A text as a configuration, every default written out."""
    from specs.load import parse_configuration

    configuration = parse_configuration(arguments["text"], model_files=False)
    return {"document": configuration.model_dump(mode="json", by_alias=True, exclude_none=True)}


def judge(arguments: Arguments, report: Report = unheard) -> Arguments:
    """Whether a text is a scenario, as a `Verdict`."""
    try:
        return {"document": {"valid": True, "errors": [], "scenario": read_scenario(arguments)["document"]}}
    except SpecError as error:
        return {"document": {"valid": False, "errors": faults(error), "scenario": None}}


def check_json(arguments: Arguments, report: Report = unheard) -> Arguments:
    """What keeps a text from being JSON, and the line; None where nothing does."""
    try:
        json.loads(arguments["text"])
    except json.JSONDecodeError as error:
        return {"document": {"detail": f"is not JSON: {error.msg} at column {error.colno}", "line": error.lineno}}
    except (ValueError, RecursionError):
        pass  # a number of thousands of digits, or brackets nested as deep: refused with its line when it is read
    return {"document": None}


WORK: dict[str, Callable[[Arguments, Report], Arguments]] = {
    "plan": plan,
    "compare": compare,
    "predict": predict,
    "render": render,
    "report": report_page,
    "placement": placement,
    "read_scenario": read_scenario,
    "read_configuration": read_configuration,
    "judge": judge,
    "check_json": check_json,
}


def _plan(arguments: Arguments) -> Plan:
    """The plan of a text; its scenario may name no file of this machine.

    Raises:
        SpecError: the text is no plan, or a model is not in the catalogue.
    """
    from specs import catalog
    from specs.load import parse_plan

    found = parse_plan(arguments["plan"])
    for s, service in enumerate(found.scenario.services if found.scenario is not None else ()):
        try:
            catalog.model(service.model, files=False)
        except SpecError as error:
            raise SpecError(error.message, field=f"scenario.services[{s}].model") from None
    return found
