"""What the pages of the targets show is what is rendered, line by line."""

import re
from pathlib import Path

import pytest

from planner.render import Target, render
from specs.errors import SpecError
from tests.render.plans import example

PAGES = Path(__file__).parents[2] / "docs" / "targets"
BLOCK = re.compile(r"^```(?:bash|yaml|json)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LEFT_OUT = ("...", "# ...")


@pytest.mark.parametrize("target", ["vllm", "sglang", "trtllm", "slurm", "ray", "skypilot", "terraform"])
def test_excerpts_are_rendered(target: str) -> None:
    page = (PAGES / f"{target}.md").read_text(encoding="utf-8")
    rendered = set()
    for name in sorted(set(re.findall(r"examples/([\w.-]+)\.yaml", page))):
        try:
            files = render(example(name), Target(target))
        except SpecError as error:
            pytest.fail(f"{name}: {error}")
        # Excerpts leave out what follows a line, and with it a comma.
        rendered |= {line.strip().rstrip(",") for text in files.values() for line in text.splitlines()}
    shown = {line.strip().rstrip(",") for block in BLOCK.findall(page) for line in block.splitlines()}
    assert sorted(shown - rendered - set(LEFT_OUT)) == []
    assert shown
