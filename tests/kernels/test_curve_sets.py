"""The stored form of measured curves."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.kernels.curves import CurveSet, Origin, Stored, save
from planner.kernels.distil import non_decreasing

ORIGIN = Origin("a study", "vllm", "0.24.0", 12, 0.021, 0.4, 3, 0.07, 5, "a note")


def table(name: str = "gemm.fp8", scale: float = 1.0) -> CurveSet:
    curves = [
        ((256, 64), [1, 8, 4096], [0.01 * scale, 0.012 * scale, 7.0 * scale]),
        ((64, 64), [1, 4096], [0.004 * scale, 1.0 * scale]),
        ((64, 512), [2, 16], [0.005 * scale, 0.006 * scale]),
    ]
    return CurveSet.of(name, ("n", "k"), "m", curves, ORIGIN)


def test_curves_are_ordered_by_key_and_keep_their_knots() -> None:
    made = table()
    assert made.keys.tolist() == [[64, 64], [64, 512], [256, 64]]
    x, time = made.knots(2)
    assert x.tolist() == [1, 8, 4096]
    assert time.tolist() == [0.01, 0.012, 7.0]
    assert made.coverage == {"n": (64, 256), "k": (64, 512), "m": (1, 4096)}


def test_between_knots_a_curve_is_linear_and_outside_it_is_held() -> None:
    made = table()
    assert made.at(1, [1, 2, 9, 16, 99]) == pytest.approx([0.005, 0.005, 0.0055, 0.006, 0.006])


def falling(*times: list[float]) -> CurveSet:
    """Curves over 1, 2, 3, ... with a knot at every value."""
    curves = [((key,), np.arange(1.0, len(time) + 1), time) for key, time in enumerate(times)]
    return CurveSet.of("a.b", ("n",), "m", curves, ORIGIN)


@given(st.lists(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12), min_size=1, max_size=3))
def test_a_curve_is_read_as_the_nearest_that_rises(times: list[list[float]]) -> None:
    made = falling(*times)
    for curve, time in enumerate(times):
        x, risen = made.rising(curve)
        assert (np.diff(risen) >= 0).all()
        assert set(x) <= set(made.knots(curve)[0])
        at = np.interp(made.knots(curve)[0], x, risen)
        # Nearest in the mean relative error: by brute force over what each row may be fitted with (`test_distil`).
        assert at == pytest.approx(non_decreasing(np.array(time)), rel=1e-6)
        assert made.rising(curve) is made.rising(curve)


def test_what_rises_is_read_as_it_is_stored() -> None:
    made = table()
    for curve in range(3):
        for read, stored in zip(made.rising(curve), made.knots(curve), strict=True):
            assert (read == stored).all()


def test_rows_between_the_knots_of_a_curve_weigh_too() -> None:
    # Of nine rows on a straight line the first curve stores two; the spike at its start is outvoted by them.
    straight = (np.array([1.0, 2.0, 10.0]), np.array([5.0, 1.0, 1.0]))
    other = (np.arange(1.0, 11.0), np.arange(1.0, 11.0) ** 2)
    made = CurveSet.of("a.b", ("n",), "m", [((0,), *straight), ((1,), *other)], ORIGIN)
    x, time = made.rising(0)
    assert x.tolist() == [1.0, 10.0]
    assert time == pytest.approx([1.0, 1.0])
    # A jump down after the first of two rows and a rise: the fit follows the rows, by the median of those it joins.
    step = (np.array([1.0, 6.0, 7.0, 10.0]), np.array([4.0, 4.0, 2.0, 8.0]))
    made = CurveSet.of("a.b", ("n",), "m", [((0,), *step), ((1,), *other)], ORIGIN)
    risen = np.interp(other[0], *made.rising(0))
    assert risen == pytest.approx([4, 4, 4, 4, 4, 4, 4, 4, 6, 8])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(2e-5, 6e4), min_size=2, max_size=8))
def test_what_is_saved_is_loaded_within_the_step(tmp_path_factory: pytest.TempPathFactory, times: list[float]) -> None:
    path = tmp_path_factory.mktemp("curves") / "a.npz"
    x = np.arange(1, len(times) + 1)
    save(path, [CurveSet.of("a.b", ("n",), "m", [((7,), x, times)], ORIGIN)])
    (made,) = Stored(path).values()
    assert made.time_ms == pytest.approx(times, rel=2e-4)
    assert made.x.tolist() == x.tolist()
    assert (made.name, made.axes, made.variable, made.origin) == ("a.b", ("n",), "m", ORIGIN)


@pytest.mark.parametrize("largest", [65535.0, 65536.0, 2.0**32 - 1, 2.0**40, 0.5])
def test_keys_and_values_come_back_whatever_their_size(tmp_path: Path, largest: float) -> None:
    curves = [((0.0, largest), [1.0, 1.0 + largest], [1.0, 2.0]), ((7.0, 1.0), [largest, 2 * largest], [1.0, 2.0])]
    made = CurveSet.of("a.b", ("n", "k"), "m", curves, ORIGIN)
    save(tmp_path / "a.npz", [made])
    (read,) = Stored(tmp_path / "a.npz").values()
    for before, after in ((made.keys, read.keys), (made.x, read.x)):
        assert after.dtype == np.float64
        assert after.shape == before.shape
        assert after == pytest.approx(before, rel=0.0 if largest < 2.0**31 else 1e-7)


def test_same_tables_give_same_bytes_in_any_order(tmp_path: Path) -> None:
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    save(first, [table("a"), table("b", 2.0)])
    save(second, [table("b", 2.0), table("a")])
    assert first.read_bytes() == second.read_bytes()
    assert list(Stored(first)) == ["a", "b"]


def test_a_time_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gemm\.fp8 has a time outside"):
        save(tmp_path / "a.npz", [table(scale=1e5)])


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_file_that_was_not_written_to_its_end_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "a.npz"
    save(path, [table()])
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"a\.npz"):
        dict(Stored(path))


def test_a_file_with_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save(path, [table()])
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz"):
        dict(Stored(path))


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, head=np.frombuffer(b'{"format": "other/2", "tables": []}', dtype=np.uint8))
    with pytest.raises(ValueError, match="'other/2'"):
        dict(Stored(path))
