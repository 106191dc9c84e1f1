"""The GPUs of a plan drawn as they sit: scale-up domains, nodes, and in every GPU the component that it works for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from planner.launch.component import Launch
from planner.launch.placement import Seat
from planner.report.markup import Markup, join, tag
from specs.scenario import ResolvedPool

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7A5195")
"""Colours that the colour-blind tell apart (Okabe and Ito, 2008), and one more."""
IDLE = "#e4e7eb"
CELL, GAP, PAD = 20, 4, 8
WIDTH = 920
LARGEST_ROW = 8
"""GPUs of a node side by side."""

Cell = tuple[str, int] | None
"""Component and instance that a GPU works for."""


@dataclass(frozen=True)
class _Node:
    """A node, and how many others hold the same."""

    cells: tuple[Cell, ...]
    first: int
    count: int


def floor_plans(launch: Launch, seats: Sequence[Seat]) -> Markup:
    """One drawing per GPU pool, and a legend."""
    colours = component_colours(launch)
    labels = {component.name: f"{component.name}: {component.role.value}" for component in launch.components}
    drawings = [
        tag(
            "figure",
            tag("figcaption", f"{pool.name}: {pool.count} x {pool.gpu.name}, {pool.gpus_per_node} per node"),
            _pool(pool, [seat for seat in seats if seat.pool == pool.name], colours),
        )
        for pool in launch.pools.values()
    ]
    legend = [_swatch(colours[name], label) for name, label in labels.items()]
    return join(*drawings, tag("p", *legend, _swatch(IDLE, "idle"), class_="legend"))


def component_colours(launch: Launch) -> dict[str, str]:
    """Colour of every component."""
    return {component.name: COLOURS[i % len(COLOURS)] for i, component in enumerate(launch.components)}


def _swatch(colour: str, label: str) -> Markup:
    square = tag("svg", tag("rect", width=12, height=12, rx=2, fill=colour), width=12, height=12, aria_hidden="true")
    return tag("span", square, f" {label}", class_="key")


def _pool(pool: ResolvedPool, seats: Sequence[Seat], colours: dict[str, str]) -> Markup:
    nodes = _alike(pool, seats)
    columns = min(pool.gpus_per_node, LARGEST_ROW)
    rows = -(-pool.gpus_per_node // columns)
    width, height = columns * (CELL + GAP) - GAP + 2 * PAD, rows * (CELL + GAP) - GAP + 2 * PAD + 16
    per_row = max(1, (WIDTH + GAP) // (width + 2 * GAP))
    drawn = []
    for i, node in enumerate(nodes):
        x, y = (i % per_row) * (width + 2 * GAP), (i // per_row) * (height + 2 * GAP)
        drawn.append(_node(node, x, y, width, height, columns, colours))
    whole = (-(-len(nodes) // per_row)) * (height + 2 * GAP)
    words = f"{sum(len(seat.gpus) for seat in seats)} of {pool.count} GPUs of pool {pool.name} are used"
    return tag(
        "svg",
        tag("title", words),
        *drawn,
        viewBox=f"0 0 {WIDTH} {whole}",
        role="img",
        class_="floor",
    )


def _alike(pool: ResolvedPool, seats: Sequence[Seat]) -> list[_Node]:
    """The nodes in their order, those that hold the same components in the same places drawn once.

    Idle nodes, of which a pool may have hundreds of thousands, are counted rather than looked at.
    """
    taken: dict[int, dict[int, Cell]] = defaultdict(dict)
    for seat in seats:
        for gpu in seat.gpus:
            taken[seat.node][gpu] = (seat.component.name, seat.instance)
    size = pool.gpus_per_node
    found: dict[tuple[object, ...], list[int]] = {}
    cells: dict[int, tuple[Cell, ...]] = {}
    for node, used in sorted(taken.items()):
        cells[node] = tuple(used.get(gpu) for gpu in range(size))
        # Which instance it is does not matter, where one ends and the next begins does.
        order: dict[Cell, int] = {}
        kind = tuple((cell and cell[0], order.setdefault(cell, len(order))) for cell in cells[node])
        found.setdefault(kind, []).append(node)
    drawn = [_Node(cells[nodes[0]], nodes[0], len(nodes)) for nodes in found.values()]
    if len(taken) < pool.nodes:
        first = next(node for node in range(pool.nodes) if node not in taken)
        drawn.append(_Node((None,) * size, first, pool.nodes - len(taken)))
    return sorted(drawn, key=lambda node: node.first)


def _node(
    node: _Node, x: float, y: float, width: float, height: float, columns: int, colours: dict[str, str]
) -> Markup:
    title = f"{node.count} x node like {node.first}" if node.count > 1 else f"node {node.first}"
    parts = [
        tag("rect", x=x, y=y + 16, width=width, height=height - 16, rx=5, class_="node"),
        tag("text", title, x=x + 2, y=y + 11, class_="name"),
    ]
    for i, cell in enumerate(node.cells):
        left, top = x + PAD + (i % columns) * (CELL + GAP), y + 16 + PAD + (i // columns) * (CELL + GAP)
        fill = IDLE if cell is None else colours[cell[0]]
        hint = "idle" if cell is None else f"{cell[0]}, instance {cell[1] + 1}"
        parts.append(tag("rect", tag("title", hint), x=left, y=top, width=CELL, height=CELL, rx=3, fill=fill))
        same_as_next = (i + 1) % columns and i + 1 < len(node.cells) and node.cells[i + 1] == cell and cell is not None
        if same_as_next:  # GPUs of one instance hang together
            parts.append(tag("rect", x=left + CELL, y=top + CELL / 2 - 2, width=GAP, height=4, fill=fill))
    return tag("g", *parts)
