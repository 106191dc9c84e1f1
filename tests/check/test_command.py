"""`cleave check` as a command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from planner.cli.check import command
from planner.cli.codes import ExitCode
from planner.render import Target
from planner.render.folder import write_folder
from specs.errors import SpecError
from tests.check.folders import folder


@pytest.fixture
def rendered(tmp_path: Path) -> tuple[Path, Path]:
    """A rendered folder, and its plan."""
    found = folder("wide", Target.VLLM)
    assert found is not None
    write_folder(tmp_path / "out", found.files, force=True)
    (tmp_path / "plan.json").write_text(found.plan.to_json())
    return tmp_path / "out", tmp_path / "plan.json"


def _run(*words: object) -> int:
    code = command.main([str(word) for word in words], standalone_mode=False)
    assert isinstance(code, int)
    return code


def test_what_was_rendered_passes(rendered: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    out, plan = rendered
    assert _run(out, "--plan", plan) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert "OK  80 GPUs" in shown
    assert "2 x 32 = 64" in shown
    assert "b200: 80 GPUs on 10 nodes" in shown


def test_violations_have_code_4_file_and_line(rendered: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    out, plan = rendered
    script = out / "instances" / "chat-decode-0-node1.sh"
    script.write_text(script.read_text().replace("--max-num-seqs 8", "--max-num-seqs 9"))
    assert _run(out, "--plan", plan) == ExitCode.CHECK_FAILED
    assert "instances/chat-decode-0-node1.sh:" in capsys.readouterr().out
    assert _run(out, "--plan", plan, "--json") == ExitCode.CHECK_FAILED
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "cleave.check/1"
    assert report["ok"] is False
    assert report["violations"][0]["file"] == "instances/chat-decode-0-node1.sh"
    assert report["violations"][0]["line"] > 1
    assert report["totals"]["gpus"] == 80


def test_bad_input_is_refused(rendered: tuple[Path, Path], tmp_path: Path) -> None:
    out, plan = rendered
    with pytest.raises(SpecError, match="not a folder"):
        _run(tmp_path / "nowhere")
    with pytest.raises(SpecError, match="not a folder"):
        _run(out, "--crds", tmp_path / "nowhere")
    with pytest.raises(SpecError):
        _run(out, "--plan", tmp_path / "none.json")
    document = json.loads(plan.read_text())
    del document["scenario"]
    plan.write_text(json.dumps(document))
    with pytest.raises(SpecError, match="scenario"):
        _run(out, "--plan", plan)


def test_checking_loads_neither_the_planner_nor_the_renderer() -> None:
    code = (
        "import sys, planner.check.check; "
        "found = ('planner.render', 'planner.launch', 'planner.costs', 'pyomo'); "
        "print([module for module in sys.modules if module.startswith(found)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
