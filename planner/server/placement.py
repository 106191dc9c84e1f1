"""Where a plan sits, as the web page draws it: its pools, its components, and the GPUs of each instance."""

from __future__ import annotations

from specs.base import Spec
from specs.plan import Plan, Role
from specs.service import Mode


class PlacedPool(Spec):
    """A pool of the cluster."""

    name: str
    gpu: str
    """Id of the catalogue."""
    gpu_name: str
    count: int
    gpus_per_node: int
    scale_up_domain: int


class PlacedComponent(Spec):
    """Instances of one layout."""

    name: str
    service: str
    mode: Mode
    role: Role
    pool: str
    unit: str | None
    """AFD unit of the plan; each of its instances is one such unit."""
    instances: int
    instance_gpus: int
    """GPUs of one instance; the attention replicas of one AFD unit are one instance."""


class PlacedSeat(Spec):
    """The GPUs that one instance takes on one node."""

    component: str
    instance: int
    rank: int
    """Index of the node within the instance."""
    node: int
    """Index of the node in the pool."""
    gpus: tuple[int, ...]
    """Indices of the GPUs in the node."""


class Placement(Spec):
    """Where everything sits; idle pools are listed too."""

    pools: tuple[PlacedPool, ...]
    components: tuple[PlacedComponent, ...]
    seats: tuple[PlacedSeat, ...]


def placement(plan: Plan) -> Placement:
    """Place a plan, as its launch files do.

    Raises:
        SpecError: the plan has no scenario, or its pools cannot hold it.
    """
    from planner.launch.component import launch
    from planner.launch.placement import place

    launched = launch(plan)
    return Placement(
        pools=tuple(
            PlacedPool(
                name=pool.name,
                gpu=pool.gpu.id,
                gpu_name=pool.gpu.name,
                count=pool.count,
                gpus_per_node=pool.gpus_per_node,
                scale_up_domain=pool.scale_up_domain,
            )
            for pool in launched.pools.values()
        ),
        components=tuple(
            PlacedComponent(
                name=component.name,
                service=component.service.name,
                mode=component.mode,
                role=component.role,
                pool=component.pool.name,
                unit=component.plan.unit,
                instances=component.instances,
                instance_gpus=component.instance_gpus,
            )
            for component in launched.components
        ),
        seats=tuple(
            PlacedSeat(
                component=seat.component.name,
                instance=seat.instance,
                rank=seat.node_rank,
                node=seat.node,
                gpus=seat.gpus,
            )
            for seat in place(launched)
        ),
    )
