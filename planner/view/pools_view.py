"""The table of the pools that serve."""

from collections.abc import Sequence

from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table

from planner.view.figures import layout, number, percent
from specs.plan import PoolPlan


def pools_view(pools: Sequence[PoolPlan], *, utilisation: bool) -> RenderableType:
    """One row per pool; `utilisation`: also how busy each is."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("role", no_wrap=True)
    table.add_column("GPU pool", overflow="fold")
    table.add_column("replicas x GPUs", justify="right", no_wrap=True)
    table.add_column("layout", overflow="fold")
    for name in ("batch", "chunk", "utilisation")[: 3 if utilisation else 2]:
        table.add_column(name, justify="right", no_wrap=True)
    for pool in pools:
        cells = [
            pool.role.value,
            pool.gpu_pool,
            f"{pool.replicas} x {pool.gpus_per_replica} = {pool.gpus}",
            layout(pool),
            number(pool.batch),
            number(pool.chunk_tokens) if pool.chunk_tokens else "-",
            percent(round(pool.utilisation, 3)),
        ]
        table.add_row(*cells[: len(table.columns)])
    return Padding(table, (0, 0, 0, 2))
