"""Hostile files given to real commands: an exit code that says what happened, and nothing written elsewhere.

`CLEAVE_FUZZ_COMMANDS=200` runs that many; the suite runs fewer of the same sequence.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from planner.render import Target
from tests.fuzz.documents import hostile
from tests.fuzz.test_hostile_documents import SCENARIO, plans, text_of

COMMANDS = int(os.environ.get("CLEAVE_FUZZ_COMMANDS", "10"))
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def documents() -> list[dict[str, object]]:
    return [json.loads(plan.to_json()) for plan in plans()]


@pytest.mark.parametrize("case", range(COMMANDS))
def test_a_hostile_file_ends_in_an_exit_code(case: int, tmp_path: Path, documents: list[dict[str, object]]) -> None:
    generator = random.Random(7000 + case)
    file, out = tmp_path / "input", tmp_path / "out"
    if generator.random() < 0.5:
        command = generator.choice(["plan", "explain", "compare"])
        text = text_of(hostile(SCENARIO, generator), generator)
        arguments = [command, str(file), "--time-limit", "5", "--json"]
    else:
        text = text_of(hostile(generator.choice(documents), generator), generator)
        arguments = generator.choice(
            [
                ["render", str(file), "--to", generator.choice(list(Target)).value, "--out", str(out)],
                ["report", str(file), "--out", str(out), "--no-compare"],
                ["explain", str(file)],
                ["check", str(tmp_path), "--plan", str(file)],
            ]
        )
    file.write_text(text, encoding="utf-8", errors="replace")
    ran = subprocess.run(
        [sys.executable, "-c", "import sys; from planner.cli import main; sys.exit(main())", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode in (0, 2, 3, 4, 5), said
    assert "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} <= {"input", "out"}
    if ran.returncode == 2:
        assert not out.exists()
        assert ran.stderr.count("\n") <= 2, "one message"
