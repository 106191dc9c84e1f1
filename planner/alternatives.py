"""The N best plans that differ in mode or layout.

A *layout* is what one server of a plan is, whatever its batch, chunks, utilisation and number: (service, mode, role,
GPU pools, TP, DP, EP, expert TP, PP, micro-batches, attention replicas of its unit). A plan uses a set S of layouts.

**Definition.** The first plan is the best of all. Each further plan is the best of those that leave out at least one
layout of every plan before it. So a plan that only changes batches or replica counts is no alternative, nor is one
that adds a layout to an earlier plan.

**Method and proof** (branching as Lawler 1972 and Murty 1968 do for the N best assignments). A node is a set F of
forbidden layouts, and its value the optimum over the plans that use none of F. Start with the node {} alone. Take the
open node of the best value; let S be the layouts of its optimum. If S contains the layouts of an earlier plan the
optimum is no alternative, else it is the next plan. In both cases open the nodes F + {k} for every k in S.

Every plan P that leaves out a layout of every returned plan lies in an open node. That holds at the start. When F is
taken, P either was in another node, or uses none of F. Then P leaves out some k of S: if S was returned by definition,
else because S contains some returned S', of which P leaves out a layout. So P lies in F + {k}. A node's value is no
worse than any of its plans, and the best node was taken, so a returned plan is the best alternative left, up to the
gap of the solves.

Layouts are forbidden before options are searched and pruned, so what a forbidden layout dominated is there again.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from formulations.table import Role as TableRole
from planner.costs.worker import Worker
from planner.options.block import Family
from planner.options.server import AfdServer, Server
from planner.plan import build
from planner.solve import Progress, Solved, solve
from planner.space import HandOver, ModeOptions, ServiceSpace, Space
from planner.variant import Clock
from specs.plan import Plan
from specs.service import Mode

Layouts = frozenset["LayoutKey"]


@dataclass(frozen=True)
class LayoutKey:
    """What makes two servers of a plan the same.

    Args:
        service: index of the service.
        mode: serving mode.
        role: what the server does for a request.
        pools: GPU pools of attention and FFN; the same twice for a worker.
        degrees: (TP, DP, EP, expert TP, PP).
        microbatches: micro-batches in flight: 2 a stage of a worker with two-batch overlap, 1 without.
        replicas: attention replicas of a unit; 0 for a worker.
    """

    service: int
    mode: Mode
    role: TableRole
    pools: tuple[str, str]
    degrees: tuple[int, int, int, int, int]
    microbatches: int
    replicas: int

    @staticmethod
    def of(service: int, mode: Mode, role: TableRole, family: Family, replicas: int, microbatches: int) -> LayoutKey:
        """Key of one server of a family; `replicas` and `microbatches` are those of an AFD unit."""
        if isinstance(family, Worker):
            layout, name = family.layout, family.site.pool.name
            degrees = (layout.tp, layout.dp, layout.ep, layout.moe_tp, layout.pp)
            return LayoutKey(service, mode, role, (name, name), degrees, layout.pp * (1 + layout.overlap), 0)
        pools = (family.attention_site.pool.name, family.ffn_site.pool.name)
        degrees = (family.tp, 1, family.ep, family.moe_tp, 1)
        return LayoutKey(service, mode, role, pools, degrees, microbatches, replicas)


@dataclass(frozen=True, eq=False)
class WithoutLayouts(ServiceSpace):
    """What a service may run on, without some layouts.

    Args:
        forbidden: layouts that may not be used.
    """

    forbidden: Layouts = frozenset()

    @staticmethod
    def of_part(part: ServiceSpace, forbidden: Layouts) -> WithoutLayouts:
        """A service's space without some layouts."""
        given = {f.name: getattr(part, f.name) for f in fields(ServiceSpace)}
        return WithoutLayouts(**given, forbidden=forbidden)

    def groups(self, mode: Mode, *, prune: bool = True) -> ModeOptions | HandOver:
        """The options of a mode, from the servers that are left for each role."""
        workers = tuple(w for w in self.workers if self._key(mode, self._prompt_role(mode), w) not in self.forbidden)
        left = replace(self, workers=workers)
        return _Decoding.of_parts(left, self.servers(mode)).groups(mode, prune=prune)

    def servers(self, mode: Mode) -> list[tuple[Family, Server]]:
        """Whatever decodes in a mode and is left."""
        role = TableRole.DECODE if self._prompt_role(mode) is TableRole.PREFILL else TableRole.SERVE
        left: list[tuple[Family, Server]] = []
        for family, server in super().servers(mode):
            if isinstance(family, Worker):
                if self._key(mode, role, family) not in self.forbidden:
                    left.append((family, server))
                continue
            kept = [
                row
                for row, (copies, batches) in enumerate(zip(server.copies, server.microbatches, strict=True))
                if LayoutKey.of(self.index, mode, role, family, int(copies), int(batches)) not in self.forbidden
            ]
            if len(kept) == server.copies.size:
                left.append((family, server))
            elif kept:
                rest = server.take(np.array(kept, dtype=np.int64))
                left.append((family, rest))
        return left

    def _key(self, mode: Mode, role: TableRole, worker: Worker) -> LayoutKey:
        return LayoutKey.of(self.index, mode, role, worker, 0, 0)

    def _prompt_role(self, mode: Mode) -> TableRole:
        """Role of whatever computes prompts."""
        handed_over = mode in (Mode.PREFILL_DECODE, Mode.PREFILL_DECODE_AFD)
        return TableRole.PREFILL if handed_over else TableRole.SERVE
