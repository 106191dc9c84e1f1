"""Which version's flags a deployment gets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from planner.launch.component import DeploymentLaunch
from specs.engine_table import EngineTable
from specs.service import Engine, Mode


class Tables(Protocol):
    """The flag tables in use: one per engine and serving mode, for AFD may need another version than the others."""

    def __call__(self, engine: Engine, *, mode: Mode = Mode.AGGREGATED) -> EngineTable:
        """The table of an engine for a mode."""


def tables_by_deployment(deployments: Iterable[DeploymentLaunch], table_of: Tables) -> dict[str, EngineTable]:
    """The table of every deployment by its name: all of its components run one version."""
    return {deployment.name: table_of(deployment.service.engine, mode=deployment.mode) for deployment in deployments}
