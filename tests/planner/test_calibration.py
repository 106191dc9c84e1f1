"""Tables of the user in plans and predictions, and what provenance says of them, against closed forms."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner import api, predict
from planner.calibrate.table import Header, Row, Table, write
from planner.cli import main
from planner.costs.analytic import AnalyticKernels
from planner.costs.operators import Elementwise, Gemm, Operator
from planner.costs.site import Site
from planner.kernels import library
from planner.kernels.calibration import Calibration
from planner.kernels.curves import CurveSet, Origin, save
from planner.provenance import operators_of, words
from planner.space import Slowdown, Space
from specs import catalog
from specs.errors import SpecError
from specs.load import build
from specs.plan import OperatorKind, OperatorProvenance, OperatorSource, Plan, PoolPlan, Provenance, Status
from specs.prediction import CONFIGURATION_SCHEMA, Configuration, Prediction
from specs.scenario import Cluster, Pool, Scenario
from specs.service import Engine, Mode
from tests.costs.sites import make_site
from tests.planner.scenarios import DENSE, incumbent, scenario, service

H100 = catalog.gpu("h100")
ANALYTIC = AnalyticKernels(H100)
DEGREES = (1, 2, 4, 8)
ROWS = (1, 16, 256, 4096, 16384)
CHORDS = 0.006
"""Relative error of the chords through a table's points."""

ASKED = scenario(service(modes=(Mode.AGGREGATED,)))
CLOSED: dict[str, Any] = {
    "schema": CONFIGURATION_SCHEMA,
    "model": DENSE,
    "gpu": "h100",
    "workload": {
        "input_tokens": 1000,
        "output_tokens": 100,
        "arrival": {"process": "closed_loop", "concurrency": 16},
    },
    "worker": {"tp": 2},
}


def gemms(tp: int) -> list[Gemm]:
    side = make_site("h100", DENSE).attention(tp)
    return [*side.group_gemms(0), side.head_gemm()]


def calibration(
    tmp_path: Path, factor: float, *, gpu: str = "h100-sxm-80gb", degrees: tuple[int, ...] = DEGREES
) -> Path:
    """A table of the model's products, `factor` times as slow as the analytic model has them."""
    points = {}
    for tp in degrees:
        for gemm in gemms(tp):
            keys = (("precision", gemm.precision.value), ("n", gemm.outputs), ("k", gemm.inputs))
            for rows in ROWS:
                time_ms = factor * float(ANALYTIC.time_ms(gemm)(rows))
                points[keys, rows] = Row("gemm", keys, rows, time_ms, 0.01, "torch", stand_in=False)
    path = tmp_path / f"{gpu}-{factor:g}.jsonl"
    header = Header(gpu, "NVIDIA H100", "cuda", "580.1", "2.11.0", "2026-11-21", (DENSE,))
    write(path, Table(header, tuple(points.values())))
    return path


@pytest.fixture(autouse=True)
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for shipped tables, empty at first."""
    folder = tmp_path / "kernels"
    monkeypatch.setattr(library, "TABLES", folder)
    library.tables_of.cache_clear()
    yield folder
    library.tables_of.cache_clear()


def predicted(*paths: Path, **changes: Any) -> Prediction:
    return predict(build(Configuration, {**CLOSED, **changes}), calibration=paths)


def of(provenance: Provenance, kind: OperatorKind) -> list[OperatorProvenance]:
    return [each for each in provenance.operators if each.operator is kind]


def placed(plan: Plan) -> list[PoolPlan]:
    return [pool for each in plan.services for deployment in each.deployments for pool in deployment.pools]


def only_gemms_are_calibrated(provenance: Provenance, path: Path) -> bool:
    sources = {(each.operator, each.source, each.calibration) for each in provenance.operators}
    (gemm,) = {each for each in sources if each[0] is OperatorKind.GEMM}
    others = {source for kind, source, _ in sources if kind is not OperatorKind.GEMM}
    return gemm[1:] == (OperatorSource.CALIBRATION, path.name) and others == {OperatorSource.ANALYTIC}


@pytest.mark.parametrize("factor", [0.8, 3.0])
def test_a_prediction_has_the_measured_times(tmp_path: Path, factor: float) -> None:
    path = calibration(tmp_path, factor)
    prediction = predicted(path)
    tokens = prediction.in_flight
    assert tokens is not None
    for gemm in gemms(2)[:-1]:
        expected = 32 * factor * float(ANALYTIC.time_ms(gemm)(tokens))
        assert prediction.breakdown["decode"][gemm.name] == pytest.approx(expected, rel=CHORDS)
    assert only_gemms_are_calibrated(prediction.provenance, path)
    (gemm_provenance,) = of(prediction.provenance, OperatorKind.GEMM)
    assert (gemm_provenance.framework, gemm_provenance.version) == ("PyTorch on NVIDIA H100", "2.11.0")
    assert (gemm_provenance.count, gemm_provenance.outside, gemm_provenance.error_p95) == (5, 1.0, 0.01)
    assert prediction.provenance.kernels == f"GEMM from calibration {path.name}, " + (
        "attention, elementwise and all-reduce analytic"
    )


def test_a_plan_and_its_modes_use_the_table(tmp_path: Path) -> None:
    fast, slow = calibration(tmp_path, 1.0), calibration(tmp_path, 2.0)
    plain, same, slower = (api.plan(ASKED, explain=False, calibration=paths) for paths in ((), fast, [slow]))
    assert plain.provenance.kernels == "analytic"
    assert incumbent(same) == pytest.approx(incumbent(plain), rel=0.01)
    assert incumbent(slower) < 0.8 * incumbent(plain)
    assert only_gemms_are_calibrated(slower.provenance, slow)
    compared = api.compare(ASKED, calibration=slow, pareto=False)
    assert compared.modes[0].value == pytest.approx(incumbent(slower), rel=1e-3)
    (again,) = api.alternatives(ASKED, 1, calibration=slow)
    assert incumbent(again) == pytest.approx(incumbent(slower), rel=1e-3)


def test_the_provenance_of_a_plan_is_that_of_its_layouts(tmp_path: Path) -> None:
    plan = api.plan(ASKED, explain=False, calibration=calibration(tmp_path, 1.0))
    (entry,) = of(plan.provenance, OperatorKind.GEMM)
    assert entry.count == len({gemm for pool in placed(plan) for gemm in gemms(pool.tp)})
    assert entry.count < len({gemm for tp in DEGREES for gemm in gemms(tp)})
    (stream,) = of(plan.provenance, OperatorKind.ELEMENTWISE)
    assert stream.count == 2  # of a layer, and sampling


def test_what_ifs_and_relaxations_use_the_table(tmp_path: Path) -> None:
    slow = calibration(tmp_path, 2.0)
    plan = api.explain(ASKED, calibration=slow)
    before, node = incumbent(plan), next(each for each in plan.explanation.what_if if "node" in each.change)
    assert node.objective_before == before
    assert node.objective_after == pytest.approx(2.0 * before, rel=0.01)  # two nodes of the calibrated GPU

    def least_tpot_ms(*paths: Path) -> float:
        dead = api.plan(scenario(service(tpot_ms=0.5, modes=(Mode.AGGREGATED,))), calibration=paths)
        assert dead.status is Status.INFEASIBLE
        needed = {each.dimension: each.needed for each in dead.explanation.relaxations}["tpot"]
        assert needed is not None
        return needed

    def found(tpot_ms: float) -> bool:
        eased = scenario(service(tpot_ms=tpot_ms, modes=(Mode.AGGREGATED,)))
        return bool(api.plan(eased, explain=False, calibration=slow).services)

    needed = least_tpot_ms(slow)
    assert needed > 1.1 * least_tpot_ms()
    assert found(needed)
    assert not found(needed / 1.02)


def test_a_slowdown_scales_the_measured_times_too(tmp_path: Path) -> None:
    table = Calibration.read(calibration(tmp_path, 2.0))
    sites = [
        Space.of(ASKED, slowdown=slowdown, calibration=table).services[0].sites[0]
        for slowdown in (Slowdown(), Slowdown(kernels=1.3))
    ]
    x = np.array([1.0, 30.0, 5000.0, 1e6])
    operators: list[Operator] = [*gemms(2), Elementwise("e", 1e5, 3)]
    for operator in operators:
        plain, slow = (site.kernels.time_ms(operator)(x) for site in sites)
        np.testing.assert_allclose(slow, 1.3 * plain, rtol=1e-12)
    for site in sites:
        assert {site.kernels.used[gemm].source for gemm in gemms(2)} == {"calibration h100-sxm-80gb-2.jsonl"}


def calibrated_site(tmp_path: Path, engine: str = "sglang", gpu: str = "h100") -> Site:
    site = make_site(gpu, DENSE, engine=engine)
    libraries = Calibration.read(calibration(tmp_path, 2.0, degrees=(1,))).on(site.pool.gpu)
    return type(site).of(site.service, site.pool, libraries=libraries)


def test_a_query_outside_is_flagged_with_how_far(tmp_path: Path) -> None:
    site = calibrated_site(tmp_path)
    widest = max(gemms(1)[:-1], key=lambda gemm: gemm.outputs)
    inside, outside = (
        Gemm(f"x{factor}", widest.inputs, round(factor * widest.outputs), widest.precision) for factor in (1, 1.5)
    )
    site.kernels.time_ms(inside)
    assert [(each.outside, each.count_outside) for each in operators_of([site])] == [(1.0, 0)]
    site.kernels.time_ms(outside)
    (entry,) = operators_of([site])
    assert (entry.outside, entry.count, entry.count_outside) == (1.5, 2, 1)
    assert words([entry]).endswith("1 operator up to 1.5x outside what was measured")
    assert operators_of([site.traced()]) == ()
    traced = site.traced()
    time = traced.kernels.time_ms(inside)
    assert [(each.count, each.count_outside) for each in operators_of([traced])] == [(1, 0)]
    last = traced.kernels.libraries[0].used[inside].answer.last
    for tokens, factor in ((last, 1.0), (2.5 * last, 2.5), (last, 2.5)):
        time(tokens)
        assert [each.outside for each in operators_of([traced])] == [factor]


def shipped(folder: Path, gpu: str, engine: str) -> None:
    """A shipped table of BF16 products, twice the analytic time."""
    origin = Origin(
        source="s",
        framework=engine,
        version="1.0",
        rows=4,
        error_p95=0.02,
        error_max=0.1,
        flagged=0,
        rising_p95=0.03,
        rising_flagged=0,
    )
    head = gemms(1)[-1]
    x = np.array([1.0, 16.0, 256.0, 4096.0])
    curve = ((head.outputs, head.inputs), x, 2.0 * ANALYTIC.time_ms(head)(x))
    save(folder / gpu / f"{engine}.npz", [CurveSet.of("gemm.bfloat16", ("n", "k"), "m", [curve], origin)])
    library.tables_of.cache_clear()


@pytest.mark.parametrize(
    ("gpu", "engine", "source", "measured_on"),
    [
        ("h100", Engine.SGLANG, OperatorSource.MEASURED, None),
        ("h100", Engine.VLLM, OperatorSource.BORROWED, None),
        ("h800", Engine.SGLANG, OperatorSource.BORROWED, "h100-sxm-80gb"),
        ("h200", Engine.SGLANG, OperatorSource.ANALYTIC, None),
    ],
)
def test_measured_borrowed_and_analytic_are_told_apart(
    tables: Path, gpu: str, engine: Engine, source: OperatorSource, measured_on: str | None
) -> None:
    shipped(tables, "h100-sxm-80gb", "sglang")
    site = make_site(gpu, DENSE, engine=engine)
    site.kernels.time_ms(gemms(1)[-1])
    (entry,) = operators_of([site])
    assert (entry.source, entry.gpu) == (source, measured_on)
    if source is not OperatorSource.ANALYTIC:
        assert (entry.framework, entry.version, entry.error_p95) == ("sglang", "1.0", 0.03)


def test_the_order_is_calibration_measured_analytic(tmp_path: Path, tables: Path) -> None:
    shipped(tables, "h100-sxm-80gb", "sglang")
    path, head = calibration(tmp_path, 5.0, degrees=(1,)), gemms(1)[-1]
    for calibrations, factor in (((path,), 5.0), ((), 2.0)):
        prediction = predicted(*calibrations, worker={"tp": 1})
        assert prediction.in_flight is not None
        expected = factor * float(ANALYTIC.time_ms(head)(prediction.in_flight))
        assert prediction.breakdown["decode"]["head"] == pytest.approx(expected, rel=0.02)


def mixed() -> Scenario:
    pools = tuple(Pool(name=name, gpu=name, count=2) for name in ("h100", "l40s"))
    return scenario(service(modes=(Mode.AGGREGATED,))).model_copy(update={"cluster": Cluster(pools=pools)})


def test_a_table_applies_on_its_own_gpu_type(tmp_path: Path) -> None:
    path = calibration(tmp_path, 2.0)
    plan = api.plan(mixed(), explain=False, calibration=path)
    assert plan.provenance.notes == (
        f"calibration {path.name} was measured on h100-sxm-80gb; it does not apply to l40s (l40s-pcie-48gb)",
    )
    used = {pool.gpu_pool for pool in placed(plan)}
    assert used == {"h100", "l40s"}
    assert {each.source for each in of(plan.provenance, OperatorKind.GEMM)} == {
        OperatorSource.CALIBRATION,
        OperatorSource.ANALYTIC,
    }


def test_a_table_that_fits_no_pool_or_is_given_twice_is_refused(tmp_path: Path) -> None:
    other = calibration(tmp_path, 2.0, gpu="h200-sxm-141gb")
    for call in (lambda: api.plan(ASKED, calibration=other), lambda: predicted(other)):
        with pytest.raises(SpecError, match=r"measured on h200-sxm-141gb.*accepted: tables of h100-sxm-80gb") as caught:
            call()
        assert (caught.value.field, caught.value.file) == ("calibration", str(other))
    own = calibration(tmp_path, 2.0)
    with pytest.raises(SpecError, match="twice"):
        api.plan(ASKED, calibration=[own, own])
    with pytest.raises(SpecError, match="no such file"):
        api.plan(ASKED, calibration=tmp_path / "none")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("command", ["plan", "compare", "explain"])
def test_the_commands_take_tables_and_warn_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path, other = calibration(tmp_path, 2.0), calibration(tmp_path, 2.0, gpu="h200-sxm-141gb")
    question = tmp_path / "scenario.json"
    question.write_text(mixed().model_dump_json(by_alias=True, exclude_none=True))
    code, out, err = run(capsys, command, question, "--json", "--calibration", path, "--gap", 0.05)
    assert code == 0
    assert err.splitlines() == [
        f"cleave: warning: calibration {path.name} was measured on h100-sxm-80gb; it does not apply to l40s "
        "(l40s-pcie-48gb)"
    ]
    assert f"from calibration {path.name}" in out
    code, out, err = run(capsys, command, question, "--calibration", path, "--calibration", other)
    assert (code, out) == (2, "")
    assert err.startswith(f"{other}: calibration: was measured on h200-sxm-141gb")
    assert "h100-sxm-80gb, l40s-pcie-48gb" in err


def test_predict_takes_tables_and_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, other = calibration(tmp_path, 2.0), calibration(tmp_path, 2.0, gpu="h200-sxm-141gb")
    given = ["--model", DENSE, "--gpu", "h100", "--tp", 2, "--input", 500, "--output", 100, "--concurrency", 8]
    code, out, err = run(capsys, "predict", *given, "--calibration", path)
    assert (code, err) == (0, "")
    assert f"kernels: GEMM from calibration {path.name}" in out
    code, out, err = run(capsys, "predict", *given, "--calibration", other, "--json")
    assert code == 2
    assert json.loads(out)["error"]["file"] == str(other)


def test_a_plan_that_is_there_takes_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = calibration(tmp_path, 2.0)
    plan = tmp_path / "plan.json"
    plan.write_text(api.plan(ASKED, calibration=path).to_json())
    code, out, _ = run(capsys, "explain", plan)
    assert code == 0
    assert f"GEMM from calibration {path.name}" in out.replace("│", "")
    code, _, err = run(capsys, "explain", plan, "--calibration", path)
    assert code == 2
    assert "needs a scenario" in err
