"""Where servers lie, as the pruning by bounds compares them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.costs.worker import Worker
from planner.launchable import attention_block
from planner.options.block import Family, IntArray, OptionBlock
from planner.options.frontier import Places
from planner.options.server import Server

Kind = tuple[str, str, bool]
"""Attention pool, FFN pool, whether the server is one block."""


def join_places(servers: Sequence[tuple[Family, Server]], *, links: bool) -> Places:
    """The places of all rows of several servers, in order; `links`: whether KV caches arrive over the network."""
    kinds: dict[Kind, int] = {}
    columns: list[tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], ...]] = []
    for family, server in servers:
        count = server.copies.size
        if isinstance(family, Worker):
            kind: Kind = (family.site.pool.name, family.site.pool.name, True)
        else:
            kind = (family.attention_site.pool.name, family.ffn_site.pool.name, family.scale_up)
        number = kinds.setdefault(kind, len(kinds))
        tp = np.ones(count, dtype=np.int64)
        separate = kind[0] != kind[1]
        if kind[2]:
            attention, block = np.zeros(count, dtype=np.int64), server.gpus
        else:
            attention, block = server.attention_gpus, server.gpus - server.attention_gpus
            near = server.site
            tp = np.array([attention_block(near.service, near.pool, gpus, server.links) for gpus in attention.tolist()])
            # Blocks of several replicas do not fill what is left of an FFN block.
            separate |= near.service.launchable
        columns.append((np.full(count, number), attention, block, tp, np.full(count, separate)))
    kind_of, attention, block, tp_of, separate_of = (
        np.concatenate([column[i] for column in columns]).astype(np.int64) for i in range(5)
    )
    rates = [server.links * server.site.fabric.scale_out_bytes_per_ms if links else 0.0 for _, server in servers]
    link = np.repeat(rates, [server.copies.size for _, server in servers])
    return Places(kind_of, attention, block, tp_of, separate_of.astype(bool), link)


def gpus_of(block: OptionBlock) -> IntArray:
    """GPUs of one server of every option."""
    fixed = [f.layout.gpus if isinstance(f, Worker) else f.ffn_gpus for f in block.families]
    each = [0 if isinstance(f, Worker) else f.tp for f in block.families]
    if not len(block):
        return np.zeros(0, dtype=np.int64)
    return np.array(fixed, dtype=np.int64)[block.family] + np.array(each, dtype=np.int64)[block.family] * block.replicas
