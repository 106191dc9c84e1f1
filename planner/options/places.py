"""Where servers lie, as the pruning by bounds compares them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.costs.worker import Worker
from planner.options.block import Family
from planner.options.frontier import Places
from planner.options.server import Server

Kind = tuple[str, str, bool]
"""Attention pool, FFN pool, whether the server is one block."""


def join_places(servers: Sequence[tuple[Family, Server]]) -> Places:
    """The places of all rows of several servers, in order."""
    kinds: dict[Kind, int] = {}
    columns: list[tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], ...]] = []
    for family, server in servers:
        count = server.copies.size
        if isinstance(family, Worker):
            kind: Kind = (family.site.pool.name, family.site.pool.name, True)
        else:
            kind = (family.attention_site.pool.name, family.ffn_site.pool.name, family.scale_up)
        number = kinds.setdefault(kind, len(kinds))
        if kind[2]:
            attention, block, tp = np.zeros(count, dtype=np.int64), server.gpus, 1
        else:
            attention, block, tp = server.attention_gpus, server.gpus - server.attention_gpus, server.links
        separate = int(kind[0] != kind[1])
        columns.append((np.full(count, number), attention, block, np.full(count, tp), np.full(count, separate)))
    kind_of, attention, block, tp_of, separate_of = (
        np.concatenate([column[i] for column in columns]).astype(np.int64) for i in range(5)
    )
    return Places(kind_of, attention, block, tp_of, separate_of.astype(bool))
