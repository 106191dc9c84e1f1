"""The stored form of measured curves."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.kernels.curves import CurveSet, Origin, load, save

ORIGIN = Origin("a study", "vllm", "0.24.0", 12, 0.021, 0.4, 3, "a note")


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


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(2e-5, 6e4), min_size=2, max_size=8))
def test_what_is_saved_is_loaded_within_the_step(tmp_path_factory: pytest.TempPathFactory, times: list[float]) -> None:
    path = tmp_path_factory.mktemp("curves") / "a.npz"
    x = np.arange(1, len(times) + 1)
    save(path, [CurveSet.of("a.b", ("n",), "m", [((7,), x, times)], ORIGIN)])
    (made,) = load(path).values()
    assert made.time_ms == pytest.approx(times, rel=2e-4)
    assert made.x.tolist() == x.tolist()
    assert (made.name, made.axes, made.variable, made.origin) == ("a.b", ("n",), "m", ORIGIN)


def test_same_tables_give_same_bytes_in_any_order(tmp_path: Path) -> None:
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    save(first, [table("a"), table("b", 2.0)])
    save(second, [table("b", 2.0), table("a")])
    assert first.read_bytes() == second.read_bytes()
    assert list(load(first)) == ["a", "b"]


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
        load(path)


def test_a_file_with_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save(path, [table()])
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz"):
        load(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, head=np.frombuffer(b'{"format": "other/2", "tables": []}', dtype=np.uint8))
    with pytest.raises(ValueError, match="'other/2'"):
        load(path)
