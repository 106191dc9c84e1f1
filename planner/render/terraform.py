"""Node pools as Terraform variables: `cleave.auto.tfvars.json` and the typed declaration of what is in it.

Nodes are those that the instances of the plan sit on, not the whole pool of the scenario.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from planner.launch.component import Launch
from planner.launch.placement import Seat, place
from planner.render.documents import json_text
from planner.render.kubernetes import GPU_LABEL, POOL_LABEL
from planner.render.tables import Tables
from specs.launchers import launchers
from specs.scenario import ResolvedPool

_VARIABLES = """\
# Typed for Terraform 1.3 or later. The values of node_pools are in cleave.auto.tfvars.json, which Terraform reads by
# itself; those of machine_types are yours to give.

variable "node_pools" {
  description = "GPU node pools of the plan, by name."
  nullable    = false

  type = map(object({
    gpu                  = string # GPU type, an id of Cleave's catalogue
    gpu_memory_bytes     = number # of one GPU
    gpus_per_node        = number
    node_count           = number       # nodes that the plan uses
    gpus_used            = number       # GPUs that the plan uses on them
    max_node_count       = number       # nodes that the scenario's pool has
    nodes_per_domain     = number       # nodes of one scale-up domain
    placement_groups     = list(number) # nodes to create in each scale-up domain
    scale_out_gbit_per_s = number       # per GPU and per direction
    nics_per_node        = number
    labels               = map(string) # of the Kubernetes nodes
    taints = list(object({
      key    = string
      value  = string
      effect = string
    }))
  }))

  validation {
    condition = alltrue([
      for pool in values(var.node_pools) : pool.gpus_used <= pool.node_count * pool.gpus_per_node
    ])
    error_message = "A pool uses more GPUs than its nodes have."
  }

  validation {
    condition = alltrue([
      for pool in values(var.node_pools) : sum(pool.placement_groups) == pool.node_count
    ])
    error_message = "The placement groups of a pool must add up to its node_count."
  }

  validation {
    condition = alltrue([
      for pool in values(var.node_pools) : pool.node_count <= pool.max_node_count
    ])
    error_message = "A pool needs more nodes than the scenario gave it."
  }
}

variable "machine_types" {
  description = "Machine type of your cloud for each GPU type in node_pools."
  type        = map(string)
  nullable    = false
}
"""


def files(launch: Launch, table_of: Tables) -> dict[str, str]:
    """The variables of the node pools that the plan uses.

    Args:
        launch: what is launched.
        table_of: not used: node pools do not depend on an engine.

    Raises:
        SpecError: the instances do not fit the nodes.
    """
    seats = place(launch)
    pools = {
        pool.name: _pool(pool, [seat for seat in seats if seat.pool == pool.name])
        for pool in launch.pools.values()
        if any(seat.pool == pool.name for seat in seats)
    }
    return {"cleave.auto.tfvars.json": json_text({"node_pools": pools}), "variables.tf": _VARIABLES}


def _pool(pool: ResolvedPool, seats: Sequence[Seat]) -> dict[str, Any]:
    """One node pool."""
    domains = {seat.node: seat.domain for seat in seats}
    groups = Counter(domains.values())
    return {
        "gpu": pool.gpu.id,
        "gpu_memory_bytes": pool.gpu.memory_bytes,
        "gpus_per_node": pool.gpus_per_node,
        "node_count": len(domains),
        "gpus_used": sum(len(seat.gpus) for seat in seats),
        "max_node_count": pool.nodes,
        "nodes_per_domain": pool.scale_up_domain // pool.gpus_per_node,
        "placement_groups": [groups[domain] for domain in sorted(groups)],
        "scale_out_gbit_per_s": pool.scale_out_gbit_per_s,
        "nics_per_node": pool.nics_per_node,
        "labels": {POOL_LABEL: pool.name, GPU_LABEL: pool.gpu.id},
        "taints": [{"key": launchers().vendors[pool.gpu.vendor].resource, "value": "present", "effect": "NO_SCHEDULE"}],
    }
