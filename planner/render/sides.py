"""The two sides of AFD units."""

from __future__ import annotations

from planner.launch.component import Component, DeploymentLaunch
from specs.plan import Role

OTHER_SIDE = {Role.ATTENTION: Role.FFN, Role.FFN: Role.ATTENTION}


def partner_of(deployment: DeploymentLaunch, component: Component) -> Component | None:
    """The other side of a component's units; None where it is no side."""
    role, unit = OTHER_SIDE.get(component.role), component.plan.unit
    return next((c for c in deployment.components if c.role is role and c.plan.unit == unit), None)
