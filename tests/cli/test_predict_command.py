"""`cleave predict`: file, options, both, and what it prints."""

import json
from pathlib import Path
from typing import Any

import pytest

from planner.cli import main
from specs.prediction import Prediction

EXAMPLES = Path(__file__).parents[2] / "examples" / "predict"
FILES = sorted(EXAMPLES.glob("*.yaml"))
MODEL = "Qwen/Qwen3-30B-A3B"
CLOSED = EXAMPLES / "closed-loop.yaml"
OPTIONS = ["--model", MODEL, "--gpu", "h100", "--tp", 2, "--input", 2000, "--output", 200, "--concurrency", 32]

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    code = main(["predict", *(str(argument) for argument in arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def as_json(capsys: Capture, *arguments: object) -> Prediction:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0
    assert all(line.startswith("cleave: warning: ") for line in err.splitlines())
    return Prediction.model_validate_json(out)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_says_what_it_asks_and_is_predicted(path: Path, capsys: Capture) -> None:
    opening = path.read_text().partition("schema:")[0].splitlines()
    assert opening
    assert all(line.startswith("# ") for line in opening)
    assert as_json(capsys, path).feasible
    assert f"predict/{path.name}" in (EXAMPLES.parents[1] / "docs" / "predict.md").read_text()


def test_the_view_shows_figures_memory_operators_and_provenance(capsys: Capture) -> None:
    prediction = as_json(capsys, CLOSED)
    code, out, _ = run(capsys, CLOSED)
    assert code == 0
    lines = out.splitlines()
    assert max(len(line) for line in lines) <= 100
    for words in ("TTFT", "TPOT", "tokens/s", "GPU", "weights", "decode step", "experts", "kernels: "):
        assert words in out
    shown = next(line for line in lines if line.strip().startswith("throughput"))
    assert f"{prediction.throughput_tok_s:,.0f}" in shown
    assert all(name.replace("_", " ") in out for name in prediction.breakdown["decode"])


def test_servers_on_different_gpus_are_counted_apart(tmp_path: Path, capsys: Capture) -> None:
    document = {
        "schema": "cleave.configuration/1",
        "model": MODEL,
        "gpu": "h100",
        "workload": {"input_tokens": 500, "output_tokens": 100},
        "request_rate_rps": 1.0,
        "prefill": {"gpu": "l40s", "tp": 4},
        "decode": {"tp": 2, "replicas": 3},
    }
    path = tmp_path / "two.json"
    path.write_text(json.dumps(document))
    code, out, _ = run(capsys, path)
    assert code == 0
    assert "on 4 x l40s + 6 x h100" in " ".join(out.split())


def test_options_alone_are_a_configuration(capsys: Capture) -> None:
    prediction = as_json(capsys, *OPTIONS)
    assert prediction.gpus == 2
    assert prediction.slots == 32
    assert prediction.in_flight is not None
    assert prediction.in_flight <= 32


def test_options_take_the_place_of_what_the_file_says(capsys: Capture) -> None:
    alone, changed = as_json(capsys, CLOSED), as_json(capsys, CLOSED, "--concurrency", 16, "--replicas", 2)
    assert (alone.slots, changed.slots) == (64, 16)
    assert changed.gpus == 2 * alone.gpus
    opened = as_json(capsys, CLOSED, "--rate", 0.5)
    assert opened.request_rate_rps == pytest.approx(0.5)


def test_a_workload_of_the_catalogue_may_be_changed(tmp_path: Path, capsys: Capture) -> None:
    document = {
        "schema": "cleave.configuration/1",
        "model": MODEL,
        "gpu": "h100",
        "workload": "chat",
        "request_rate_rps": 1.0,
        "worker": {"tp": 2},
    }
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(document))
    assert as_json(capsys, path).feasible
    assert as_json(capsys, path, "--concurrency", 4, "--output", 1).tpot_ms is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [([CLOSED, "--gpu", "h100", "--dp", 2, "--ep", 2], "DOES NOT FIT"), ([CLOSED, "--rate", 1000], "SATURATED")],
)
def test_what_cannot_run_ends_in_3_with_the_reason(arguments: list[Any], words: str, capsys: Capture) -> None:
    code, out, _ = run(capsys, *arguments)
    assert code == 3
    assert words in out
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 3
    assert not Prediction.model_validate_json(out).feasible


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "is required where there is no FILE"),
        ([CLOSED, "--rate", 1, "--concurrency", 1], "exclude each other"),
        ([CLOSED, "--tp", 3], "worker"),
        ([CLOSED, "--gpu", "h2000"], "nearest"),
        ([CLOSED, "--precision", "fp7"], "precision"),
        ([*OPTIONS, "--mode", "afd"], "needs a FILE"),
        (["none.yaml"], "no such file"),
        ([CLOSED, "--tp", 0], "--tp"),
    ],
)
def test_bad_input_ends_in_2(arguments: list[Any], message: str, capsys: Capture) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
