"""The commands of a launch: one per engine process and one per router. All targets take theirs from here."""

from __future__ import annotations

from planner.launch.address import Address, Ports
from planner.launch.command import Process, Word
from planner.launch.component import Component
from planner.launch.refusal import refuse
from planner.launch.router import entry_roles, router_process
from planner.launch.shell import Bare, Shell, quote
from specs.engine_table import EngineTable, engine_table
from specs.errors import SpecError
from specs.service import Engine

__all__ = [
    "Address",
    "Bare",
    "Ports",
    "Process",
    "Shell",
    "Word",
    "engine_process",
    "entry_roles",
    "quote",
    "refuse",
    "router_process",
    "table_for",
]


def table_for(component: Component, version: str | None = None) -> EngineTable:
    """The flag table of a component: of `version`, or of the engine's default for the component's mode.

    Raises:
        SpecError: there is no table of this version; the nearest is named.
    """
    return engine_table(component.service.engine, version, mode=component.mode)


def engine_process(
    component: Component,
    table: EngineTable,
    address: Address,
    *,
    partner: Component | None = None,
    config_dir: str = ".",
) -> Process:
    """The process of one node of one engine instance.

    Args:
        component: what is launched.
        table: flags of the engine's version.
        address: where this node and the others are.
        partner: the other side of the AFD unit; needed where the component is one side.
        config_dir: folder in which the process finds its files, as a path without a trailing slash.

    Raises:
        SpecError: the engine cannot run the component; the message says what, and which engine can.
    """
    if table.engine is not component.service.engine:
        raise SpecError(
            f"the table of {table.title} is not of {component.service.engine.value}, the engine of {component.name}",
            field="engine",
        )
    # Imported here so that a launch loads the writer of its own engine alone.
    if table.engine is Engine.VLLM:
        from planner.launch.vllm import vllm_process

        return vllm_process(component, table, address, partner)
    if table.engine is Engine.SGLANG:
        from planner.launch.sglang import sglang_process

        return sglang_process(component, table, address, partner)
    from planner.launch.trtllm import trtllm_process

    return trtllm_process(component, table, address, config_dir)
