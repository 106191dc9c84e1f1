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
from collections import Counter
from dataclasses import dataclass, fields, replace

import numpy as np

from formulations.table import Role as TableRole
from planner.assemble import build
from planner.clock import UNLIMITED, Clock
from planner.costs.worker import Worker
from planner.options.block import Family
from planner.options.layouts import DECODING_PIPELINE_DEGREES
from planner.options.serve import Rival
from planner.options.server import Server, WorkerServer
from planner.solve import Progress, Solved, solve
from planner.space import HandOver, ModeOptions, ServiceSpace, Space
from planner.variant import DISAGGREGATED_FFN, HAND_OVER
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
        decoders: workers, whatever their role; `workers` holds those that may compute prompts.
    """

    forbidden: Layouts = frozenset()
    decoders: tuple[Worker, ...] = ()

    @staticmethod
    def of_part(part: ServiceSpace, forbidden: Layouts) -> WithoutLayouts:
        """A service's space without some layouts."""
        given = {f.name: getattr(part, f.name) for f in fields(ServiceSpace)}
        given["rejected"] = {mode: Counter[str]() for mode in part.rejected}
        return WithoutLayouts(**given, forbidden=forbidden, decoders=part.workers)

    def groups(
        self, mode: Mode, *, prune: bool = True, rival: Rival | None = None, clock: Clock = UNLIMITED
    ) -> ModeOptions | HandOver:
        """The options of a mode, from the servers that are left for each role."""
        role = TableRole.PREFILL if mode in HAND_OVER else TableRole.SERVE
        prompts = tuple(worker for worker in self.decoders if self._allows(mode, role, worker))
        return ServiceSpace.groups(replace(self, workers=prompts), mode, prune=prune, rival=rival, clock=clock)

    def unlimited_servers(self, mode: Mode) -> list[tuple[Family, Server]]:
        """Whatever decodes in a mode and is left."""
        role = TableRole.DECODE if mode in HAND_OVER else TableRole.SERVE
        if mode not in DISAGGREGATED_FFN:
            left_over = [w for w in self.decoders if w.layout.pp in DECODING_PIPELINE_DEGREES]
            return [(w, WorkerServer(w)) for w in left_over if self._allows(mode, role, w)]
        left: list[tuple[Family, Server]] = []
        for server in self.units:
            pairs = zip(server.copies.tolist(), server.microbatches.tolist(), strict=True)
            rows = [row for row, pair in enumerate(pairs) if self._allows(mode, role, server.unit, *pair)]
            if len(rows) == server.copies.size:
                left.append((server.unit, server))
            elif rows:
                left.append((server.unit, server.take(np.array(rows, dtype=np.int64))))
        return left

    def _allows(self, mode: Mode, role: TableRole, family: Family, replicas: int = 0, microbatches: int = 0) -> bool:
        return LayoutKey.of(self.index, mode, role, family, replicas, microbatches) not in self.forbidden


def layouts_of(solved: Solved) -> Layouts:
    """The layouts that a solution uses."""
    found = set()
    modes = list(Mode)
    for row, servers in solved.solution.replicas.items():
        if servers:
            group = solved.tables.groups[int(solved.tables.group[row])]
            block, index = group.block, int(solved.tables.row[row])
            family = block.families[int(block.family[index])]
            mode = modes[int(solved.tables.options.mode[row])]
            copies, batches = int(block.replicas[index]), int(block.microbatches[index])
            found.add(LayoutKey.of(group.service, mode, group.role, family, copies, batches))
    return frozenset(found)


@dataclass(frozen=True, eq=False)
class _Node:
    """A node whose problem has been solved."""

    forbidden: Layouts
    space: Space
    solved: Solved


def best_plans(
    space: Space, count: int, *, gap: float, clock: Clock, progress: Progress | None = None
) -> list[tuple[Space, Solved, Plan]]:
    """The `count` best plans as the module defines them, best first; fewer where there are no more, or no more time.

    Args:
        space: the declared space.
        count: plans wanted.
        gap: relative gap of every solve.
        clock: of all solves together.
        progress: told of every solve.
    """
    found: list[tuple[Space, Solved, Plan]] = []
    returned: list[Layouts] = []
    heap: list[tuple[float, int, _Node]] = []
    numbers = itertools.count()
    seen: set[Layouts] = set()
    sign = -1.0 if space.scenario.objective.maximizing else 1.0

    def open_node(forbidden: Layouts) -> None:
        if forbidden in seen or clock.left_s <= 0.0:
            return
        seen.add(forbidden)
        if progress is not None:
            best = found[0][1].solution.incumbent if found else None
            progress(f"plan {len(found) + 1} of {count}, {len(seen)} problems solved", best, None)
        part = replace(space, services=tuple(WithoutLayouts.of_part(part, forbidden) for part in space.services))
        chosen = part if forbidden else space
        solved = solve(chosen, gap=gap, time_limit_s=clock.left_s)
        if solved.solution.found:
            heapq.heappush(heap, (sign * solved.solution.incumbent, next(numbers), _Node(forbidden, chosen, solved)))

    open_node(frozenset())
    while heap:
        _, _, node = heapq.heappop(heap)
        used = layouts_of(node.solved)
        if not any(used >= earlier for earlier in returned):
            returned.append(used)
            found.append((node.space, node.solved, build(node.space, node.solved, gap=gap)))
            if len(found) == count:
                break
        for key in sorted(used, key=repr):
            open_node(node.forbidden | {key})
    return found


def distance_note(value: float, best: float, *, maximizing: bool) -> str:
    """How far a plan is from the best, in words."""
    if value == best:
        return "as good as the best"
    side = "below" if maximizing else "above"
    return f"{abs(value - best) / abs(best or 1.0):.2%} {side} the best"
