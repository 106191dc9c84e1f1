import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import planner
from tests.cli.fabricated import comparison, found_plan, write_scenario


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    return write_scenario(tmp_path)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Put a planner in place that answers at once and remembers what it was asked."""
    fake = ModuleType("planner.api")
    fake.calls = []  # type: ignore[attr-defined]

    def answering(name: str, answer: object) -> Callable[..., Any]:
        def call(*args: object, **named: Any) -> Any:
            named["progress"]("solving", 1.0, 2.0)
            fake.calls.append((name, args, named))  # type: ignore[attr-defined]
            return answer

        return call

    answers = {
        "plan": found_plan(),
        "explain": found_plan(),
        "alternatives": (found_plan(), found_plan("aggregated", 4000.0)),
        "compare": comparison(),
    }
    for name, answer in answers.items():
        setattr(fake, name, answering(name, answer))
    fake.answering = answering  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "planner.api", fake)
    monkeypatch.setattr(planner, "api", fake, raising=False)
    return fake
