"""Every engine instance of a launch with its seats, its ports and the other side of its AFD unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count

from planner.launch.address import Address, Ports
from planner.launch.command import Process
from planner.launch.component import Component, DeploymentLaunch, Launch
from planner.launch.placement import Seat, place
from planner.launch.process import engine_process
from planner.launch.router import entry_roles, router_process
from planner.render.sides import OTHER_SIDE
from specs.engine_table import EngineTable
from specs.errors import SpecError
from specs.plan import Role
from specs.service import Engine

_LAST_PORT = 65_535
_RANGE_ROOM = 256
"""Ports that an instance may count upwards from its last one."""

Host = Callable[[Seat], str]
"""Name of the host of a seat's node, as shell text."""


@dataclass(frozen=True)
class Instance:
    """One engine instance.

    Args:
        deployment: name of its deployment.
        component: whose instance it is.
        index: among the component's instances.
        seats: one per node, by node rank.
        slot: of its ports: no other instance on its nodes has it.
    """

    deployment: str
    component: Component
    index: int
    seats: tuple[Seat, ...]
    slot: int

    @property
    def name(self) -> str:
        """Unique in the launch, and a DNS label."""
        return f"{self.component.name}-{self.index}"

    @property
    def ports(self) -> Ports:
        """Its ports, on each of its nodes."""
        return Ports().shifted(self.slot)

    def script(self, seat: Seat) -> str:
        """Name of the script that starts its share of a node."""
        return f"{self.name}-node{seat.node_rank}"


@dataclass(frozen=True)
class Roster:
    """All instances of a launch.

    Args:
        instances: by component and index.
    """

    instances: tuple[Instance, ...]

    def of(self, deployment: DeploymentLaunch) -> tuple[Instance, ...]:
        """The instances of a deployment."""
        return tuple(instance for instance in self.instances if instance.deployment == deployment.name)

    def other_side(self, instance: Instance) -> Instance | None:
        """The instance that is the other side of an AFD unit."""
        component = instance.component
        role = OTHER_SIDE.get(component.role)
        if role is None:
            return None
        return self._sides.get((instance.deployment, role, component.plan.unit, instance.index))

    @cached_property
    def _sides(self) -> dict[tuple[str, Role, str | None, int], Instance]:
        """Sides of AFD units by deployment, role, unit and index."""
        return {
            (instance.deployment, instance.component.role, instance.component.plan.unit, instance.index): instance
            for instance in self.instances
            if instance.component.role in OTHER_SIDE
        }

    def address(self, instance: Instance, seat: Seat, host: Host) -> Address:
        """Where one node of an instance is, and where it finds the others."""
        other = self.other_side(instance)
        return Address(
            node_rank=str(seat.node_rank),
            leader=host(instance.seats[0]),
            ports=instance.ports,
            peers={} if other is None else {other.component.role.value: host(other.seats[0])},
            host=host(seat),
            peer_ports={} if other is None else {other.component.role.value: other.ports},
        )

    def process(self, instance: Instance, seat: Seat, table: EngineTable, host: Host, *, config_dir: str) -> Process:
        """The command of one instance on one of its nodes.

        Raises:
            SpecError: the engine cannot launch the component.
        """
        other = self.other_side(instance)
        return engine_process(
            instance.component,
            table,
            self.address(instance, seat, host),
            partner=None if other is None else other.component,
            config_dir=config_dir,
        )

    def servers(self, deployment: DeploymentLaunch, host: Host) -> Mapping[str, Sequence[str]]:
        """URLs of the servers that take a deployment's requests, by kind of backend."""
        kinds = entry_roles(deployment)
        urls: dict[str, list[str]] = {}
        for instance in self.of(deployment):
            kind = kinds.get(instance.component.role)
            if kind is not None:
                urls.setdefault(kind, []).append(f"http://{host(instance.seats[0])}:{instance.ports.http}")
        return urls

    def router(
        self, deployment: DeploymentLaunch, table: EngineTable, host: Host, port: int, *, config_dir: str
    ) -> Process | None:
        """The entry point of a deployment; None where clients talk to the engines themselves."""
        prefill = [instance for instance in self.of(deployment) if instance.component.role is Role.PREFILL]
        ports = [instance.ports.bootstrap for instance in prefill] if table.engine is Engine.SGLANG else []
        urls = self.servers(deployment, host)
        return router_process(deployment, table, urls, port, bootstrap_ports=ports, config_dir=config_dir)


def roster(launch: Launch) -> Roster:
    """The instances of a launch on the nodes of its cluster, each with ports of its own.

    Raises:
        SpecError: they do not fit the nodes, one of them does not take as many GPUs of each of its nodes, or a node
            holds so many that ports run out.
    """
    seats: dict[tuple[str, int], list[Seat]] = {}
    for seat in place(launch):
        seats.setdefault((seat.component.name, seat.instance), []).append(seat)
    busy: dict[tuple[str, int], set[int]] = {}
    found = []
    for deployment in launch.deployments:
        for component in deployment.components:
            for index in range(component.instances):
                taken = tuple(seats[component.name, index])
                _check_even(component, taken)
                nodes = [busy.setdefault((seat.pool, seat.node), set()) for seat in taken]
                slot = check_slot(next(slot for slot in count() if all(slot not in node for node in nodes)))
                for node in nodes:
                    node.add(slot)
                found.append(Instance(deployment.name, component, index, taken, slot))
    return Roster(tuple(found))


def check_slot(slot: int) -> int:
    """The slot, if its ports exist.

    Raises:
        SpecError: they do not.
    """
    if Ports().shifted(slot).side_channel + _RANGE_ROOM > _LAST_PORT:
        raise SpecError(
            f"{slot + 1} engine instances on one node leave no free ports; accepted: a smaller gpus_per_node",
            field="services",
        )
    return slot


def _check_even(component: Component, seats: Sequence[Seat]) -> None:
    """Engines take the same number of GPUs on each of their nodes."""
    counts = {len(seat.gpus) for seat in seats}
    if len(seats) != component.nodes or counts != {component.gpus_on_node}:
        spread = ", ".join(f"{len(seat.gpus)} on node {seat.node}" for seat in seats)
        raise SpecError(
            f"{component.name} takes {component.instance_gpus} GPUs of pool {component.pool.name} as {spread}; engines "
            f"need as many on each node, here {component.gpus_on_node} on {component.nodes}",
            field="services",
        )
