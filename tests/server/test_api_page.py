"""The examples of docs/api.md run, and its tables say what the code does."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from planner.server.job import JobStatus
from planner.server.routes.answers import MEANINGS
from tests.server.live import LiveServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on the path")
def test_the_examples_run(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script = "set -euo pipefail\n" + "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    environment = {**os.environ, "CLEAVE": server.url}
    run = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr
    assert "optimal" in run.stdout
    ids = re.findall(r"^[0-9a-z]{26}$", run.stdout, re.MULTILINE)
    assert len(ids) == 2
    assert ids[0] == ids[1]
    assert '"status":422' in run.stdout


def test_statuses_codes_and_paths_are_on_the_page(server: LiveServer) -> None:
    assert all(f"`{status.value}`" in PAGE for status in JobStatus)
    assert all(re.search(rf"\b{code}\b", PAGE) for code in MEANINGS)
    description = server.client.get("/openapi.json").json()
    for path in description["paths"]:
        pieces = re.sub(r"\{\w+\}", "\n", path.removeprefix("/v1")).split("\n")
        assert all(piece.strip("/") in PAGE for piece in pieces), path


def test_options_and_metrics_are_on_the_page(server: LiveServer) -> None:
    from planner.cli.serve import command

    options = [max(parameter.opts, key=len) for parameter in command.params]
    assert all(option in PAGE for option in options), options
    text = server.client.get("/metrics").text
    names = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    assert all(name in PAGE for name in names if not name.endswith("_created")), names
