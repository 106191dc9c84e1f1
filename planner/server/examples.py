"""Scenarios and configurations to begin with, from a folder."""

from pathlib import Path
from typing import Literal

from specs.base import Spec
from specs.errors import SpecError
from specs.load import parse_configuration, parse_scenario


class Example(Spec):
    """One of them."""

    name: str
    """Of its file, without the ending."""
    title: str
    """What it asks, from its first comment."""
    kind: Literal["scenario", "configuration"]
    text: str
    """YAML."""


def read_examples(folder: Path) -> tuple[Example, ...]:
    """The examples of a folder, by name; whatever in it is none is left out."""
    scenarios = [_example(path, "scenario") for path in sorted(folder.glob("*.yaml"))]
    configurations = [_example(path, "configuration") for path in sorted(folder.glob("predict/*.yaml"))]
    return tuple(example for example in (*scenarios, *configurations) if example is not None)


def _example(path: Path, kind: Literal["scenario", "configuration"]) -> Example | None:
    try:
        text = path.read_text(encoding="utf-8")
        (parse_scenario if kind == "scenario" else parse_configuration)(text, model_files=False)
    except (OSError, UnicodeDecodeError, SpecError):
        return None
    return Example(name=path.stem, title=_title(text), kind=kind, text=text)


def _title(text: str) -> str:
    """The first sentence of the comment on top."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    return next(iter(" ".join(lines).replace("?", "?\n").replace(". ", ".\n").splitlines()), "")
