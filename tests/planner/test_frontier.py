"""Pruning by bounds never lowers the best that a small pool can hold."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.options.frontier import Places, needed
from tests.planner.brute_force import Placements, footprint


@st.composite
def servers(draw, blocks):
    """Workers and units in one block, or units whose attention blocks lie apart from their FFN block."""
    if blocks:
        return 0, draw(st.integers(1, 8)), 1
    tp = draw(st.sampled_from([1, 2, 4]))
    return tp * draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 4])), tp


@settings(max_examples=150, deadline=None)
@given(data=st.data(), blocks=st.booleans(), apart=st.booleans(), domain=st.sampled_from([4, 8]))
def test_best_of_a_pool_survives(data, blocks, apart, domain):
    apart = apart and not blocks
    drawn = [data.draw(servers(blocks)) for _ in range(data.draw(st.integers(1, 7)))]
    drawn = [each for each in drawn if each[1] <= domain]
    if not drawn:
        return
    attention, block, tp = (np.array(column, dtype=np.int64) for column in zip(*drawn, strict=True))
    size = len(drawn)
    low = np.array([data.draw(st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, 6.5])) for _ in range(size)])
    slack = np.array([data.draw(st.sampled_from([0.0, 0.0, 0.5])) for _ in range(size)])
    link = np.array([data.draw(st.sampled_from([1.0, 2.0])) for _ in range(size)])
    true = low + slack * data.draw(st.floats(0, 1))
    places = Places(np.zeros(size, dtype=np.int64), attention, block, tp, np.full(size, apart), link)
    kept = needed(places, low, low + slack)

    pool = SimpleNamespace(count=8, scale_up_domain=domain)
    footprints = [footprint([(0, t)] * (a // t) + [(int(apart), b)]) for a, b, t in drawn]
    kinds = {item for each in footprints for item, _ in each}
    space = Placements([pool, pool] if apart else [pool], kinds)
    for asked in (1.0, 2.0):
        every, left = (
            space.best(footprints, np.where(open_ & (link >= asked), true, 0.0)[None, :])
            for open_ in (np.ones(size, dtype=bool), kept)
        )
        assert every.max() == left.max()
