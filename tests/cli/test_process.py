"""What only a process of its own shows: start-up time, imports, pipes and colours."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLEAVE = [sys.executable, "-c", "import sys; from planner.cli import main; sys.exit(main())"]


def cleave(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLEAVE, *arguments], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_help_is_quick_and_lists_every_command() -> None:
    seconds = []
    for _ in range(5):
        start_s = time.perf_counter()
        done = cleave("--help")
        seconds.append(time.perf_counter() - start_s)
    assert done.returncode == 0
    for command in ("plan", "compare", "explain", "catalog"):
        assert f"\n  {command} " in done.stdout
    assert min(seconds) < 0.3


def test_help_imports_nothing_heavy() -> None:
    heavy = ["numpy", "pydantic", "rich", "yaml", "pyomo", "highspy", "matplotlib", "plotly"]
    code = (
        "import sys\nfrom planner.cli import main\nmain(['--help']); main(['plan', '--help'])\n"
        f"sys.exit(', '.join(set({heavy}) & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version() -> None:
    done = cleave("--version")
    assert done.stdout.startswith("cleave ")
    assert done.returncode == 0


def test_a_reader_that_goes_away_is_no_error() -> None:
    for arguments in (["--help"], ["catalog"], ["catalog", "--json"]):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [*CLEAVE, *arguments], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (0, "")


def test_colour_is_for_terminals_that_want_it() -> None:
    assert "\x1b[" not in cleave("catalog", "b200").stdout
    assert "\x1b[" in cleave("catalog", "b200", FORCE_COLOR="1", TERM="xterm-256color").stdout
    coloured = cleave("catalog", "b200", FORCE_COLOR="1", TERM="xterm-256color", NO_COLOR="1").stdout
    assert "\x1b[3" not in coloured  # bold may stay, colours may not
    assert "\x1b[" not in cleave("catalog", "b200", NO_COLOR="1").stdout


def test_a_terminal_without_box_characters_still_gets_its_tables() -> None:
    done = cleave("catalog", "gpus", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "b200-sxm-180gb" in done.stdout
    assert json.loads(cleave("catalog", "gpus", "--json", PYTHONIOENCODING="ascii").stdout)["gpus"]
