"""What the files start: engine processes, the nodes they are on, and the instances they form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planner.check.arguments import Arguments, Spoken
from planner.check.place import Fact, Place
from specs.engine_table import EngineTable
from specs.plan import Role
from specs.service import Engine


@dataclass(frozen=True)
class Process:
    """One engine process, or the alike processes of one node.

    Args:
        table: flag table of its engine and version.
        arguments: of the command.
        env: environment variables.
        config: values of the YAML file that it reads, by dotted key.
        place: of the command.
        tasks: MPI tasks that run it on each node; None where it is started without MPI.
    """

    table: EngineTable
    arguments: Arguments
    env: Mapping[str, Spoken]
    place: Place
    config: Mapping[str, Fact[Any]] = field(default_factory=dict)
    tasks: Fact[int] | None = None

    @property
    def engine(self) -> Engine:
        """Whose process it is."""
        return self.table.engine


@dataclass(frozen=True)
class Seat:
    """The share of an instance on one node.

    Args:
        gpus: GPUs that the process sees there.
        node: name of the node; None where a scheduler chooses it.
        ids: indices of the GPUs in the node; None where a scheduler chooses them.
        process: what runs there.
        host: how the others reach it, as its own files write it.
        leader: how its files write the host of the instance's first node.
    """

    gpus: Fact[int]
    process: Process | None
    node: Fact[str] | None = None
    ids: tuple[int, ...] | None = None
    host: str | None = None
    leader: str | None = None


@dataclass(frozen=True)
class Instance:
    """One engine instance, or several that are alike.

    Args:
        name: its own.
        component: name of the component that it is an instance of.
        seats: its nodes by rank.
        copies: alike instances that this stands for.
        place: where it is described.
        pool: GPU pool that it is bound to, where the files say so.
        gpu: GPU type that it is bound to, where the files say so: an id of the catalogue.
        service: name of the deployment that it is part of.
        role: what its name or labels say that it does.
        hosts: how routers and the other side of a unit reach the first node of each copy; empty where only an operator
            knows.
        managed: whether an operator sets hosts, ports and node ranks, so that the files must not.
        routed: whether an operator routes requests, so that the files have no router.
        scattered: strategy by which a scheduler puts its seats on nodes, several on one; None: each seat is one node.
    """

    name: str
    component: str
    seats: tuple[Seat, ...]
    copies: Fact[int]
    place: Place
    pool: Fact[str] | None = None
    service: Fact[str] | None = None
    role: Fact[Role] | None = None
    gpu: Fact[str] | None = None
    hosts: tuple[str, ...] = ()
    managed: bool = False
    routed: bool = False
    scattered: Fact[str] | None = None

    @property
    def gpus(self) -> int:
        """GPUs of one copy."""
        return sum(seat.gpus.value for seat in self.seats)

    @property
    def nodes(self) -> int:
        """Nodes of one copy."""
        return len(self.seats)

    @property
    def address(self) -> str | None:
        """The hosts of all copies in one text, `$GROUP_INDEX` standing for the number of the copy."""
        if len(self.hosts) == 1 and self.copies.value == 1 and not self.hosts[0].endswith("-0"):
            return self.hosts[0]
        stems = {host.rpartition("-")[0] for host in self.hosts}
        numbers = [host.rpartition("-")[2] for host in self.hosts]
        if len(stems) == 1 and numbers == [str(i) for i in range(len(numbers))]:
            return f"{stems.pop()}-$GROUP_INDEX"
        return self.hosts[0] if len(self.hosts) == 1 else None

    @property
    def leader(self) -> Process | None:
        """The process on its first node."""
        return self.seats[0].process if self.seats else None

    @property
    def processes(self) -> tuple[Process, ...]:
        """The processes of all its nodes."""
        return tuple(seat.process for seat in self.seats if seat.process is not None)


@dataclass(frozen=True)
class Backend:
    """A server that a router sends requests to.

    Args:
        kind: `prefill`, `decode`, or `mixed`.
        url: of the server, or host and port.
        bootstrap: port where decode finds prefill, where the router is told.
    """

    kind: str
    url: Spoken
    bootstrap: Spoken | None = None


@dataclass(frozen=True)
class Router:
    """A process in front of the instances of a deployment.

    Args:
        deployment: name of what it is in front of.
        engine: whose router it is.
        backends: servers behind it.
        port: it listens on; None where it says none.
        place: of the command.
        node: where it runs, where the files say so.
        host: where it runs, as the others reach it.
    """

    deployment: str
    engine: Engine
    backends: tuple[Backend, ...]
    port: Fact[int] | None
    place: Place
    node: str | None = None


@dataclass(frozen=True)
class NodePool:
    """Nodes that the files ask a provisioner for.

    Args:
        name: of the pool.
        gpu: GPU type.
        nodes: how many.
        gpus_per_node: of each.
        gpus_used: of all.
        place: where it is described.
        values: all that the files say of it, by name.
    """

    name: str
    gpu: Fact[str]
    nodes: Fact[int]
    gpus_per_node: Fact[int]
    gpus_used: Fact[int]
    place: Place
    values: Mapping[str, Fact[Any]] = field(default_factory=dict)


@dataclass
class Fleet:
    """Everything that the files of a folder ask for."""

    instances: list[Instance] = field(default_factory=list)
    routers: list[Router] = field(default_factory=list)
    pools: list[NodePool] = field(default_factory=list)
    nodes: dict[str, Mapping[str, Fact[Any]]] = field(default_factory=dict)
    """GPU type and GPUs per node of pools, where the files say so."""
    formats: set[str] = field(default_factory=set)
    """Kinds of file that were recognised."""

    def add(self, other: Fleet) -> None:
        """Take in what another reader found."""
        self.instances += other.instances
        self.routers += other.routers
        self.pools += other.pools
        self.nodes |= other.nodes
        self.formats |= other.formats

    def components(self) -> dict[str, list[Instance]]:
        """Instances by component, in the order of the files."""
        found: dict[str, list[Instance]] = {}
        for instance in self.instances:
            found.setdefault(instance.component, []).append(instance)
        return found
