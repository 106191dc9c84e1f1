"""What an engine cannot launch, said in one error."""

from __future__ import annotations

from collections.abc import Iterable

from planner.launch.component import Component
from specs.errors import SpecError


def refuse(component: Component, what: str, others: Iterable[str]) -> SpecError:
    """The error that an engine cannot launch a component.

    Args:
        component: the component.
        what: it asks for.
        others: engines that can.
    """
    able = ", ".join(others) or "none of the others either"
    return SpecError(
        f"{component.name}: {component.service.engine.value} cannot launch {what}; can: {able}", field="engine"
    )
