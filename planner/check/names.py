"""Names in launch files: `<deployment>-<role>[-<number>]`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from specs.plan import Role

_COMPONENT = re.compile(rf"(?P<deployment>.+)-(?P<role>{'|'.join(role.value for role in Role)})(-\d+)?")


def role_of(component: str) -> Role | None:
    """The role that a component's name says, or None."""
    found = _COMPONENT.fullmatch(component)
    return Role(found["role"]) if found else None


def deployment_of(component: str) -> str:
    """The deployment that a component's name says; the name itself where it says none."""
    found = _COMPONENT.fullmatch(component)
    return found["deployment"] if found else component


def service_of(deployment: str, services: Iterable[str]) -> str | None:
    """The service whose deployment has this name: its own, with a number, or cut and marked by a hash."""
    known = sorted(services, key=len, reverse=True)
    for name in known:
        if deployment == name or re.fullmatch(rf"{re.escape(name)}-\d+", deployment):
            return name
    for name in known:
        cut = re.fullmatch(r"(.+)-[0-9a-f]{6}(-\d+)?", deployment)
        if cut and name.startswith(cut[1]):
            return name
    return None
