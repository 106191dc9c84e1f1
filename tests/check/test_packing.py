from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from planner.check.packing import fewest_nodes, fits


def _brute(pieces: list[int], node: int, nodes: int) -> bool:
    """Whether any assignment of pieces to nodes fits."""
    for places in product(range(nodes), repeat=len(pieces)):
        room = [node] * nodes
        for piece, place in zip(pieces, places, strict=True):
            room[place] -= piece
        if min(room, default=0) >= 0:
            return True
    return not pieces


@given(st.lists(st.integers(1, 8), max_size=6), st.integers(1, 8), st.integers(1, 3))
def test_fits_is_brute_force(pieces: list[int], node: int, nodes: int) -> None:
    assert fits(pieces, node, nodes) == _brute(pieces, node, nodes)


@given(st.lists(st.integers(1, 8), max_size=6))
def test_fewest_nodes_hold_the_pieces(pieces: list[int]) -> None:
    count = fewest_nodes(pieces, 8)
    assert fits(pieces, 8, count) is not False
    assert count >= sum(pieces) / 8


def test_largest_first_is_not_the_last_word() -> None:
    assert fits([4, 3, 3, 2, 2, 2], 8, 2) is True
