import io
import json
import sys
from pathlib import Path

import pytest

from specs import catalog
from specs.errors import SpecError
from specs.load import build, errors_in, load, load_plan, load_scenario, parse_scenario
from specs.plan import Plan
from specs.scenario import Scenario
from specs.workload import Workload

SCENARIO = """\
# DeepSeek on one rack
schema: cleave.scenario/1
cluster:
  pools:
    - name: b200
      gpu: b200-sxm-180gb
      count: 128
services:
  - name: coding
    model: deepseek-ai/DeepSeek-V3.2
    workload: {input_tokens: 4000, output_tokens: 1000,
               prefix_tokens: 2000}
    slo:
      ttft_ms: 100
      tpot_ms: 15
objective:
  maximize: throughput
"""
PLAN = {
    "schema": "cleave.plan/1",
    "status": "infeasible",
    "objective": {"maximize": "throughput"},
    "certificate": {},
    "provenance": {"kernels": "analytic"},
}


def refusal(text: str, file: str | None = "s.yaml") -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_scenario(text, file)
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "accepted"),
    [
        ("count: 128", "count: 0", 7, "cluster.pools[0].count", "greater than 0, got 0"),
        ("count: 128", "count: 12", 7, "cluster.pools[0].count", "8 or 16"),
        ("count: 128", "count: many", 7, "cluster.pools[0].count", "a whole number, got 'many'"),
        ("count: 128", "cuont: 128", 7, "cluster.pools[0].cuont", "did you mean count?"),
        ("      count: 128\n", "", 5, "cluster.pools[0].count", "is required"),
        ("b200-sxm-180gb", "b200-sxm-181gb", 6, "cluster.pools[0].gpu", "b200-sxm-180gb"),
        ("DeepSeek-V3.2", "DeepSeek-V3.3", 10, "services[0].model", "deepseek-ai/deepseek-v3.2"),
        ("prefix_tokens: 2000", "prefix_tokens: -1", 12, "services[0].workload.prefix_tokens", "at least 0, got -1"),
        ("output_tokens: 1000", "output_tokens: 2e7", 11, "services[0].workload.output_tokens", "at most 10,000,000"),
        ("tpot_ms: 15", "tpot_ms: .inf", 15, "services[0].slo.tpot_ms", "a finite number"),
        ("      tpot_ms: 15\n", "", 13, "services[0].slo.tpot_ms", "required by phase full"),
        ("    slo:", "    split: yes\n    slo:", 13, "services[0].split", "true or false, got 'yes'"),
        ("name: coding", "name: 1", 9, "services[0].name", "text (a number goes in quotes)"),
        ("maximize: throughput", "minimize: cost", 9, "services[0].demand_rps", "service 'coding' has none"),
        ("maximize: throughput", "maximize: profit", 17, "objective.maximize", "'throughput', got 'profit'"),
        ("cleave.scenario/1", "cleave.scenario/2", 2, "schema", "'cleave.scenario/1'"),
        ("  maximize: throughput", "  - 1", 16, "objective", "a mapping of the fields maximize, minimize, got a list"),
        ("    slo:", "    engine: vlm\n    slo:", 13, "services[0].engine", "did you mean vllm?"),
        ("    slo:", "    name: x\n    slo:", 13, None, "'name' is given twice (first on line 9)"),
        ("    slo:", "    modes: []\n    slo:", 13, "services[0].modes", "at least 1, got an empty list"),
        ("    slo:", "    slo: [", 15, None, "is neither YAML nor JSON"),
        ("# DeepSeek", "\x07", 1, None, "is neither YAML nor JSON"),
    ],
)
def test_an_error_names_file_line_field_and_what_is_accepted(
    old: str, new: str, line: int, field: str | None, accepted: str
) -> None:
    assert SCENARIO.count(old) == 1
    error = refusal(SCENARIO.replace(old, new))
    assert (error.file, error.line, error.field) == ("s.yaml", line, field)
    assert accepted in error.message
    assert str(error).startswith(f"s.yaml:{line}: ")


def test_one_error_is_raised_and_the_others_are_counted() -> None:
    error = refusal(SCENARIO.replace("tpot_ms: 15", "tpot_ms: -1").replace("count: 128", "count: -1"))
    assert error.field == "cluster.pools[0].count"
    assert error.message.endswith("(and 1 more)")


def test_a_misspelt_field_is_not_also_reported_missing() -> None:
    error = refusal(SCENARIO.replace("ttft_ms", "tftt_ms").replace("gpu:", "gpus:"))
    assert error.field == "cluster.pools[0].gpus"
    assert error.message.endswith("(and 1 more)")


def test_json_is_read_and_its_errors_have_lines() -> None:
    scenario = parse_scenario(SCENARIO)
    text = scenario.to_json()
    assert parse_scenario(text) == scenario
    line = next(i for i, row in enumerate(text.splitlines(), 1) if '"count"' in row)
    error = refusal(text.replace('"count": 128', '"count": -3'))
    assert (error.line, error.field) == (line, "cluster.pools[0].count")
    assert refusal('{"schema": 1, "schema": 2}').message.startswith("'schema' is given twice")
    assert refusal('{"schema":\n]').line == 2


def test_yaml_is_read_by_its_modern_rules() -> None:
    found = parse_scenario(SCENARIO.replace("4000", "4e3").replace("name: coding", "name: on").replace("128", "0x80"))
    assert isinstance(found.services[0].workload, Workload)
    assert found.services[0].workload.input_tokens == 4000
    assert found.services[0].name == "on"
    assert found.cluster.pools[0].count == 128
    anchors = SCENARIO.replace("slo:", "slo: &slo").replace("objective:", "  - {name: b, model: gpt-oss-120b, "
                                                            "workload: chat, slo: *slo}\nobjective:")  # fmt: skip
    assert parse_scenario(anchors).services[1].slo == found.services[0].slo


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        "[1, 2]",
        "text",
        "a: 1\n---\nb: 2",
        "a: !!python/object:os.system x",
        "? [a]\n: 1",
        "a: &a [*a]",
        "a: *nowhere",
        "[" * 500_000,
        '{"a":' * 100_000,
        "\ud800",
        '{"\\ud800": "\\udfff"}',
        "a: " + "9" * 10_000,
        "\n".join(["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]),
    ],
)
def test_what_is_no_scenario_is_refused_in_words(text: str) -> None:
    str(refusal(text)).encode()


def test_the_schema_key_of_the_other_contract_is_refused() -> None:
    error = refusal(json.dumps(PLAN))
    assert error.field == "schema"
    assert error.message.startswith("must be 'cleave.scenario/1', got 'cleave.plan/1'")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe9")
    (tmp_path / "large.yaml").write_bytes(b"#" * 1_000_001)
    for name, words in (
        ("none.yaml", "no such file"),
        ("", "is a directory"),
        ("latin.yaml", "not UTF-8"),
        ("large.yaml", "larger than 1 MB"),
        ("nul\0", "cannot be read"),
        ("x" * 5000, "cannot be read"),
    ):
        with pytest.raises(SpecError, match=words) as caught:
            load_scenario(tmp_path / name)
        assert caught.value.file == str(tmp_path / name)
    with pytest.raises(SpecError, match=r"latin\.yaml:2"):
        load_scenario(tmp_path / "latin.yaml")


def test_a_scenario_is_read_from_a_file_and_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("\ufeff" + SCENARIO, encoding="utf-8")
    scenario = load_scenario(path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SCENARIO.encode())))
    assert load_scenario("-") == scenario
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a: 1")))
    with pytest.raises(SpecError, match=r"^<stdin>:1: schema: is required"):
        load_scenario("-")


def test_a_model_path_is_relative_to_the_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = Path(__file__).parent / "configs"
    config = next(path for path in sorted(configs.rglob("*.json")))
    (tmp_path / "scenarios" / "mine").mkdir(parents=True)
    (tmp_path / "scenarios" / "mine" / "config.json").write_bytes(config.read_bytes())
    monkeypatch.chdir(tmp_path)
    for given in ("./mine/config.json", "mine/config.json", "./mine", "mine"):
        path = tmp_path / "scenarios" / "s.yaml"
        path.write_text(SCENARIO.replace("deepseek-ai/DeepSeek-V3.2", given), encoding="utf-8")
        model = load_scenario("scenarios/s.yaml").services[0].model
        assert Path(model).resolve().is_relative_to(tmp_path / "scenarios" / "mine")
        assert catalog.model(model).id == "mine"
    (tmp_path / "scenarios" / "mine" / "config.json").write_text('{"architectures": ["Abacus"]}', encoding="utf-8")
    with pytest.raises(SpecError, match=r"config\.json") as caught:
        load_scenario("scenarios/s.yaml")
    assert (caught.value.line, caught.value.field) == (10, "services[0].model")


def test_plans_and_either_kind_are_read(tmp_path: Path) -> None:
    plan, scenario = tmp_path / "plan.json", tmp_path / "s.yaml"
    plan.write_text(json.dumps(PLAN, indent=2), encoding="utf-8")
    scenario.write_text(SCENARIO, encoding="utf-8")
    assert isinstance(load(plan), Plan)
    assert isinstance(load(scenario), Scenario)
    assert load_plan(plan) == load(plan)
    plan.write_text(json.dumps({**PLAN, "status": "optimal"}, indent=2), encoding="utf-8")
    with pytest.raises(SpecError, match="must not be empty") as caught:
        load_plan(plan)
    assert (caught.value.field, caught.value.line) == ("services", 1)


def test_plain_data_is_validated_with_the_same_words() -> None:
    with pytest.raises(SpecError, match=r"^output_tokens: must be greater than 0, got 0$"):
        build(Workload, {"input_tokens": 1, "output_tokens": 0})


def test_errors_found_after_reading_get_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "asked.yaml"
    path.write_text("schema: cleave.scenario/1\nservices:\n  - name: a\n    workload: chat\n")
    with pytest.raises(SpecError) as raised, errors_in(path):
        raise SpecError("is too long", field="services[0].workload")
    assert (raised.value.file, raised.value.line, raised.value.field) == (str(path), 4, "services[0].workload")
    path.unlink()
    with pytest.raises(SpecError) as raised, errors_in(path):
        raise SpecError("is too long", field="services[0].workload")
    assert (raised.value.file, raised.value.line) == (str(path), None)
