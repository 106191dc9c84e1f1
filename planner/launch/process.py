"""The command of an engine process. All targets take theirs from here."""

from __future__ import annotations

from planner.launch.address import Address
from planner.launch.command import Process
from planner.launch.component import Component
from specs.engine_table import EngineTable
from specs.errors import SpecError
from specs.service import Engine


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
