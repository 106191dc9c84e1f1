import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from planner.cli import main
from specs.errors import SpecError
from specs.schema import schemas
from tests.cli.fabricated import found_plan, missing_plan, no_mode

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> Any:
        raise error

    return call


def test_plan_prints_only_the_plan_as_json(api: Any, scenario: Path, capsys: Capture) -> None:
    code, out, err = run(capsys, "plan", scenario, "--json", "--gap", "0.01", "--time-limit", "5", "--no-explain")
    assert (code, err) == (0, "")
    jsonschema.validate(json.loads(out), schemas()["plan"])
    assert json.loads(out) == json.loads(found_plan().to_json())
    name, args, named = api.calls[0]
    assert (name, args[0].services[0].name) == ("plan", "coding")
    del named["progress"]
    assert named == {
        "gap": 0.01,
        "time_limit_s": 5.0,
        "formulation": "columns",
        "explain": False,
        "calibration": (),
    }


def test_plan_reads_standard_input(api: Any, scenario: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(scenario.read_bytes())))
    assert run(capsys, "plan", "-", "--json")[0] == 0
    assert api.calls[0][1][0].cluster.pools[0].count == 128


def test_plan_writes_the_file_whole_and_leaves_nothing_beside_it(api: Any, scenario: Path, capsys: Capture) -> None:
    out_file = scenario.parent / "plan.json"
    out_file.write_text("old")
    assert run(capsys, "plan", scenario, "--out", out_file)[0] == 0
    assert json.loads(out_file.read_text()) == json.loads(found_plan().to_json())
    assert {path.name for path in scenario.parent.iterdir()} == {"scenario.yaml", "plan.json"}


def test_alternatives_come_with_their_distance(api: Any, scenario: Path, capsys: Capture) -> None:
    code, out, _ = run(capsys, "plan", scenario, "--alternatives", "2", "--json")
    document = json.loads(out)
    jsonschema.validate(document, schemas()["alternatives"])
    assert code == 0
    assert [entry["distance"] for entry in document["alternatives"]] == [0.0, pytest.approx(321 / 4321)]
    assert "7.429%" in run(capsys, "plan", scenario, "--alternatives", "2")[1]


def test_where_there_is_no_alternative_the_plan_says_why(api: Any, scenario: Path, capsys: Capture) -> None:
    api.alternatives = api.answering("alternatives", ())
    api.plan = api.answering("plan", missing_plan())
    code, out, _ = run(capsys, "plan", scenario, "--alternatives", "2", "--json")
    assert (code, json.loads(out)["status"]) == (3, "infeasible")


@pytest.mark.parametrize(("status", "code"), [("infeasible", 3), ("time_limit", 5)])
@pytest.mark.parametrize("command", ["plan", "explain"])
def test_without_a_plan_the_explanation_is_the_output(
    api: Any, scenario: Path, capsys: Capture, command: str, status: str, code: int
) -> None:
    setattr(api, command, api.answering(command, missing_plan(status)))
    found, out, err = run(capsys, command, scenario, "--json")
    assert (found, err) == (code, "")
    assert json.loads(out) == json.loads(missing_plan(status).to_json())
    found, out, err = run(capsys, command, scenario)
    assert (found, err) == (code, "")
    assert "16.25 ms" in out


@pytest.mark.parametrize(("status", "code"), [("infeasible", 3), ("time_limit", 5)])
def test_compare_without_any_plan(api: Any, scenario: Path, capsys: Capture, status: str, code: int) -> None:
    api.compare = api.answering("compare", no_mode(status))
    found, out, _ = run(capsys, "compare", scenario, "--json")
    jsonschema.validate(json.loads(out), schemas()["comparison"])
    assert found == code
    assert run(capsys, "compare", scenario)[0] == code


def test_a_plan_found_when_time_ran_out_is_a_plan(api: Any, scenario: Path, capsys: Capture) -> None:
    api.plan = api.answering("plan", found_plan(status="feasible"))
    assert run(capsys, "plan", scenario)[0] == 0


def test_explain_renders_a_plan_without_planning(api: Any, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "plan.json"
    path.write_text(found_plan().to_json())
    code, out, _ = run(capsys, "explain", path)
    assert (code, api.calls) == (0, [])
    assert "prefill of coding [4 replicas] takes all but 8.5 ms" in out


@pytest.mark.parametrize("suffix", [".svg", ".png", ".html"])
def test_compare_draws(api: Any, scenario: Path, capsys: Capture, suffix: str) -> None:
    picture = scenario.parent / f"pareto{suffix}"
    assert run(capsys, "compare", scenario, "--plot", picture)[0] == 0
    content = picture.read_bytes()
    marks = {".svg": b"<svg", ".png": b"\x89PNG", ".html": b"prefill + AFD decode (best)"}
    assert marks[suffix] in content


def test_a_missing_extra_is_named_before_the_work(
    api: Any, scenario: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = run(capsys, "compare", scenario, "--plot", scenario.parent / "x.svg")
    assert (code, api.calls) == (2, [])
    assert "pip install 'cleave[report]'" in err


BAD_COMMANDS: list[tuple[list[str], str | None, str]] = [
    (["plan", "{scenario}", "--gap", "-1"], "--gap", "greater than 0 and less than 1, got '-1'"),
    (["plan", "{scenario}", "--gap", "nan"], "--gap", "got 'nan'"),
    (["plan", "{scenario}", "--time-limit", "0"], "--time-limit", "must be seconds, a number greater than 0, got '0'"),
    (["plan", "{scenario}", "--time-limit", "inf"], "--time-limit", "got 'inf'"),
    (["plan", "{scenario}", "--alternatives", "1.5"], "--alternatives", "a whole number from 1 to 100, got '1.5'"),
    (["plan", "{scenario}", "--formulation", "magic"], "--formulation", "'magic'"),
    (["plan", "{scenario}", "--alternatives", "2", "--formulation", "piecewise"], None, "--formulation columns"),
    (["plan", "{scenario}", "--frobnicate"], None, "--frobnicate"),
    (["plan", "{scenario}", "--out", "{folder}/none/plan.json"], "--out", "does not exist"),
    (["plan", "{scenario}", "--out", "{folder}"], "--out", "is a directory"),
    (["compare", "{scenario}", "--plot", "x.pdf"], "--plot", "must end in .svg, .png, .html"),
    (["plan"], None, "FILE"),
    (["paln"], None, "did you mean 'plan'"),
    (["plan", "{folder}/none.yaml"], None, "no such file"),
    (["explain", "{folder}/none.yaml"], None, "no such file"),
    (["catalog", "b2000"], None, "nearest are b200"),
]


@pytest.mark.parametrize(("arguments", "field", "message"), BAD_COMMANDS)
def test_bad_command_lines_end_in_one_message(
    api: Any, scenario: Path, capsys: Capture, arguments: list[str], field: str | None, message: str
) -> None:
    given = [part.format(scenario=scenario, folder=scenario.parent) for part in arguments]
    code, out, err = run(capsys, *given)
    assert (code, out, api.calls) == (2, "", [])
    assert message in err
    assert err.count("\n") == 1
    code, out, _ = run(capsys, *given, "--json")
    error = json.loads(out)["error"]
    assert set(error) == {"message", "field", "file", "line"}
    assert (code, error["field"]) == (2, field)
    assert message in error["message"]


def test_bad_input_names_file_line_and_field(api: Any, scenario: Path, capsys: Capture) -> None:
    scenario.write_text(scenario.read_text().replace("count: 128", "count: 0"))
    code, out, err = run(capsys, "plan", scenario)
    assert (code, out) == (2, "")
    assert err.startswith(f"{scenario}:4: cluster.pools[0].count: ")
    error = json.loads(run(capsys, "plan", scenario, "--json")[1])["error"]
    assert (error["file"], error["line"], error["field"]) == (str(scenario), 4, "cluster.pools[0].count")


def test_input_that_the_planner_refuses_is_bad_input(api: Any, scenario: Path, capsys: Capture) -> None:
    api.plan = raising(SpecError("p97 is not implemented", field="services[0].slo.statistic"))
    code, out, err = run(capsys, "plan", scenario)
    line = next(n for n, text in enumerate(scenario.read_text().splitlines(), 1) if "slo:" in text)
    assert (code, out) == (2, "")
    assert err == f"{scenario}:{line}: services[0].slo.statistic: p97 is not implemented\n"


def test_a_bug_is_one_line(api: Any, scenario: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    api.plan = raising(KeyError("batch\nsize"))
    monkeypatch.delenv("CLEAVE_DEBUG", raising=False)
    code, out, err = run(capsys, "plan", scenario)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "KeyError" in err
    assert "Traceback" not in err
    monkeypatch.setenv("CLEAVE_DEBUG", "1")
    assert "Traceback" in run(capsys, "plan", scenario)[2]


def test_an_interrupt_before_a_plan(api: Any, scenario: Path, capsys: Capture) -> None:
    api.plan = raising(KeyboardInterrupt())
    code, out, err = run(capsys, "plan", scenario)
    assert (code, out) == (130, "")
    assert "interrupted" in err


def test_the_catalogue(capsys: Capture) -> None:
    code, out, _ = run(capsys, "catalog")
    assert code == 0
    for name in ("b200-sxm-180gb", "deepseek-ai/DeepSeek-V3.2", "coding"):
        assert name in out
    assert "Models" not in run(capsys, "catalog", "gpus")[1]
    assert json.loads(run(capsys, "catalog", "workloads", "--json")[1])["workloads"][0] == "chat"
    assert "nvidia-smi: 183359 MiB" in run(capsys, "catalog", "b200")[1]
    assert json.loads(run(capsys, "catalog", "B200", "--json")[1])["memory_bytes"] == 192265846784
    assert json.loads(run(capsys, "catalog", "coding", "--json")[1])["output_tokens"] == 1024
    assert "8 of 256 experts" in run(capsys, "catalog", "deepseek-v3")[1]
