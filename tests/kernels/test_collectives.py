"""Measured communication: fabricated laws come back, and nothing measured inside a domain is used across one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.costs.exchange_laws import Phase
from planner.costs.fabric import Fabric
from planner.costs.routing import Collective, Copies, remote_copies
from planner.kernels.build.collectives import NORMAL_SMS, tables
from planner.kernels.build.source import Source, SourceError
from planner.kernels.collectives import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER, CollectiveTables
from planner.kernels.curves import CurveSet, Origin
from specs.scenario import Pool, ResolvedPool, resolve_pool

ORIGIN = Origin("fabricated", "vllm", "1", 1, 0.0, 0.0, 0, 0.0, 0)
LOW_LATENCY, NORMAL = Collective.DEEPEP_LOW_LATENCY, Collective.DEEPEP_NORMAL
SIZES = 2.0 ** np.arange(10, 29)


def make_pool(gpu: str = "h200", **changes: Any) -> ResolvedPool:
    return resolve_pool(Pool.model_validate({"name": "p", "gpu": gpu, "count": 576, **changes}))


def collectives(*parts: CurveSet) -> CollectiveTables:
    return CollectiveTables({part.name: part for part in parts})


def at_share(pool: ResolvedPool, shares: Mapping[int, float]) -> CurveSet:
    """All-reduces that reach a share of the law's speed at some rank counts."""
    plain = Fabric.of(pool)
    curves = [((ranks,), SIZES, plain.all_reduce(ranks, 1.0)(SIZES) / share) for ranks, share in shares.items()]
    return CurveSet.of(ALL_REDUCE, ("ranks",), "bytes", curves, ORIGIN)


def test_a_share_of_the_law_is_carried_between_and_beyond_the_rank_counts() -> None:
    pool = make_pool("gb200-nvl72-186gb")
    plain = Fabric.of(pool)
    known = collectives(at_share(pool, {2: 0.5, 4: 0.25, 8: 0.8}))
    fabric = Fabric.of(pool, collectives=known)
    bytes_per_token = 8192.0
    tokens = np.array([0.0, 0.5, 1.0, 3.0, 100.0, 5e3, 2e4, 1e6])  # 4 KB to 8 GB: both ends lie outside
    for ranks, share in ((2, 0.5), (4, 0.25), (8, 0.8), (72, 0.8)):
        law = plain.all_reduce(ranks, bytes_per_token)(tokens)
        assert fabric.all_reduce(ranks, bytes_per_token)(tokens) == pytest.approx(law / share, rel=0.003)
    # Half-way between 2 and 4, and between 4 and 8, in the logarithm.
    for ranks, (low, high), weight in ((3, (2.0, 4.0), np.log2(1.5)), (6, (4.0, 1.25), np.log2(1.5))):
        expected = plain.all_reduce(ranks, bytes_per_token)(tokens) * (low + (high - low) * weight)
        assert fabric.all_reduce(ranks, bytes_per_token)(tokens) == pytest.approx(expected, rel=0.003)
    asked = {ranks: answer.outside for (_, (ranks,)), answer in fabric.asked.items() if answer is not None}
    assert asked == {2: 1.0, 3: 1.0, 4: 1.0, 6: 1.0, 8: 1.0, 72: pytest.approx(9.0)}
    assert not fabric.all_reduce(1, 8192.0)(1e6)


def test_of_curves_around_a_query_the_shortest_says_what_was_measured() -> None:
    curves = [((2.0,), SIZES, SIZES * 1e-8 + 0.01), ((8.0,), SIZES[:-4], SIZES[:-4] * 2e-8 + 0.01)]
    known = collectives(CurveSet.of(ALL_REDUCE, ("ranks",), "bytes", curves, ORIGIN))
    fabric = Fabric.of(make_pool(), collectives=known)
    for ranks, last in ((2, SIZES[-1]), (4, SIZES[-5]), (8, SIZES[-5])):
        fabric.all_reduce(ranks, 1.0)
        answer = fabric.asked[ALL_REDUCE, (ranks,)]
        assert answer is not None
        assert answer.last == last


def test_measured_points_come_back() -> None:
    rng = np.random.default_rng(5)
    times = np.cumsum(rng.exponential(0.01, SIZES.size)) + 0.004
    known = collectives(CurveSet.of(ALL_REDUCE, ("ranks",), "bytes", [((8,), SIZES, times)], ORIGIN))
    time = Fabric.of(make_pool(), collectives=known).all_reduce(8, 1024.0)
    assert time(SIZES / 1024.0) == pytest.approx(times, rel=0.005)
    assert time.x.size <= 30


def test_other_links_than_those_measured_keep_the_share() -> None:
    known = collectives(at_share(make_pool(), {8: 0.5}))
    slow = make_pool(scale_up_gbyte_per_s=225.0, scale_up_latency_us=4.0)
    time = Fabric.of(slow, collectives=known).all_reduce(8, 1024.0)
    assert time(1e7) == pytest.approx(Fabric.of(slow).all_reduce(8, 1024.0)(1e7) / 0.5, rel=1e-3)
    assert time(1.0) == pytest.approx(Fabric.of(slow).all_reduce(8, 1024.0)(1.0) / 0.5, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(st.lists(st.floats(0.0, 3.0), min_size=6, max_size=6), min_size=1, max_size=4),
    floor=st.floats(0.002, 0.1),
    ranks=st.sampled_from([2, 3, 4, 8, 16, 64]),
    gbyte=st.sampled_from([100.0, 900.0]),
)
def test_any_measurement_gives_a_positive_continuous_rising_time(
    data: list[list[float]], floor: float, ranks: int, gbyte: float
) -> None:
    x = 4.0 ** np.arange(5, 11)
    curves = [((2.0**i,), x, floor * np.exp(np.cumsum(steps))) for i, steps in enumerate(data)]
    known = collectives(CurveSet.of(ALL_REDUCE, ("ranks",), "bytes", curves, ORIGIN))
    pool = make_pool("gb200-nvl72-186gb", scale_up_gbyte_per_s=gbyte)
    time = Fabric.of(pool, collectives=known).all_reduce(ranks, 16.0)
    at = np.concatenate(([0.0], np.geomspace(1e-2, 1e7, 4001)))
    values = time(at)
    assert (values > 0).all()
    assert (np.diff(values) >= -1e-12 * values[1:]).all()
    assert np.diff(time.x).min() > 0
    assert time.slope > 0
    # A step of 0.5% in size moves the time by no jump: at most by the steepest chord (e^3 per factor 4).
    assert (values[2:] / values[1:-1]).max() < 1.2


def exchange_tables(pool: ResolvedPool, share: float, kind: Collective = LOW_LATENCY) -> list[CurveSet]:
    """Exchanges among eight ranks that reach a share of the law, for two sizes of copy."""
    plain, copies, tokens = Fabric.of(pool), Copies(7.0, 0.0), 2.0 ** np.arange(11)
    parts = []
    for phase in Phase:
        curves = []
        for size in (4096.0, 14336.0):
            law = plain.exchange(copies, size, peers=7, collective=kind, phase=phase)
            curves.append(((8.0, size, 7.0), tokens, law(tokens) / share))
        axes = ("ranks", "copy_bytes", "copies")
        parts.append(CurveSet.of(f"exchange.{kind}.{phase}", axes, "tokens", curves, ORIGIN))
    return parts


def test_an_exchange_inside_a_domain_is_the_measured_one() -> None:
    pool = make_pool()
    fabric, plain = Fabric.of(pool, collectives=collectives(*exchange_tables(pool, 0.5))), Fabric.of(pool)
    tokens = np.array([0.0, 1.0, 17.0, 128.0, 1024.0, 1e5])
    for copies, size in ((7.0, 4096.0), (7.0, 7392.0), (5.25, 30_000.0)):
        for phase in Phase:
            times = [
                f.exchange(Copies(copies, 0.0), size, peers=7, collective=LOW_LATENCY, phase=phase)(tokens)
                for f in (fabric, plain)
            ]
            assert times[0] == pytest.approx(times[1] / 0.5, rel=0.003)
    # Kernels that were not measured follow their law.
    one, two = (f.exchange(Copies(7.0, 0.0), 4096.0, peers=7)(tokens) for f in (fabric, plain))
    assert (one == two).all()


@settings(max_examples=40, deadline=None)
@given(
    ranks=st.sampled_from([16, 32, 64, 256]),
    kind=st.sampled_from(list(Collective)),
    phase=st.sampled_from(list(Phase)),
    share=st.floats(0.1, 20.0),
    tokens=st.floats(1.0, 1e5),
)
def test_what_crosses_a_domain_is_never_taken_from_a_table(
    ranks: int, kind: Collective, phase: Phase, share: float, tokens: float
) -> None:
    pool = make_pool()
    fabric = Fabric.of(pool, collectives=collectives(*exchange_tables(pool, share, kind)))
    copies = remote_copies(kind, 256, 8, ranks, 8)
    time = fabric.exchange(copies, 7392.0, peers=ranks - 1, collective=kind, phase=phase)(tokens)
    law = Fabric.of(pool).exchange(copies, 7392.0, peers=ranks - 1, collective=kind, phase=phase)(tokens)
    assert time == law
    # 400 Gb/s NICs.
    assert time >= copies.scale_out * tokens * 7392.0 / 50e6


def test_the_bytes_of_a_gather_are_those_of_all_ranks() -> None:
    pool = make_pool()
    times = SIZES / 300e6 + 0.01
    known = collectives(
        CurveSet.of(ALL_GATHER, ("ranks",), "bytes", [((8,), SIZES, times)], ORIGIN),
        CurveSet.of(REDUCE_SCATTER, ("ranks",), "bytes", [((8,), SIZES, 2.0 * times)], ORIGIN),
    )
    fabric = Fabric.of(pool, collectives=known)
    copies = remote_copies(Collective.ALL_GATHER, 256, 8, 8, 8)
    for phase, factor in ((Phase.DISPATCH, 1.0), (Phase.COMBINE, 2.0)):
        time = fabric.exchange(copies, 4096.0, peers=7, collective=Collective.ALL_GATHER, phase=phase)
        assert time(100.0) == pytest.approx(factor * (8 * 4096.0 * 100.0 / 300e6 + 0.01), rel=0.005)


@pytest.mark.parametrize("slowdown", [1.3, 2.0])
def test_a_slowdown_scales_everything(slowdown: float) -> None:
    pool = make_pool()
    known = collectives(at_share(pool, {2: 0.5, 8: 0.7}), *exchange_tables(pool, 0.6))
    fast, slow = (Fabric.of(pool, slowdown=s, collectives=known) for s in (1.0, slowdown))
    tokens = np.array([0.0, 1.0, 30.0, 1e3, 1e6])
    near, far = Copies(7.0, 0.0), Copies(1.0, 6.0)
    for f, g in (
        (fast.all_reduce(8, 4096.0), slow.all_reduce(8, 4096.0)),
        (fast.all_reduce(5, 4096.0), slow.all_reduce(5, 4096.0)),
        *(
            (fast.exchange(c, 7392.0, peers=p, collective=k), slow.exchange(c, 7392.0, peers=p, collective=k))
            for c, p in ((near, 7), (far, 31))
            for k in Collective
        ),
    ):
        assert g(tokens) == pytest.approx(slowdown * f(tokens), rel=1e-9)


def test_one_outlier_moves_nothing_else() -> None:
    rising = SIZES / 400e6 + 6e-3
    spiked = rising.copy()
    spiked[[0, 7]] *= 5.0
    known = collectives(CurveSet.of(ALL_REDUCE, ("ranks",), "bytes", [((8,), SIZES, spiked)], ORIGIN))
    time = Fabric.of(make_pool(), collectives=known).all_reduce(8, 1024.0)
    others = np.arange(SIZES.size) != 7
    assert time(SIZES[others] / 1024.0) == pytest.approx(rising[others], rel=0.02)
    # The one inside is held between its neighbours.
    assert rising[6] * 0.99 <= time(SIZES[7] / 1024.0) <= rising[8] * 1.01


def test_curves_that_differ_in_experts_alone_are_averaged() -> None:
    pool, copies, tokens = make_pool(), Copies(7.0, 0.0), 2.0 ** np.arange(11)
    law = Fabric.of(pool).exchange(copies, 4096.0, peers=7, collective=LOW_LATENCY, phase=Phase.DISPATCH)
    curves = [
        ((8.0, 4096.0, 7.0, experts), tokens, law(tokens) * slow) for experts, slow in ((128.0, 2.0), (384.0, 3.0))
    ]
    axes = ("ranks", "copy_bytes", "copies", "experts")
    table = CurveSet.of(f"exchange.{LOW_LATENCY}.{Phase.DISPATCH}", axes, "tokens", curves, ORIGIN)
    fabric = Fabric.of(pool, collectives=collectives(table))
    time = fabric.exchange(copies, 4096.0, peers=7, collective=LOW_LATENCY, phase=Phase.DISPATCH)
    at = np.array([0.0, 1.0, 17.0, 1024.0, 1e5])
    assert time(at) == pytest.approx(2.5 * law(at), rel=0.003)


# -- build -----------------------------------------------------------------------------------------------------------

ELEMENTS = [1 << power for power in range(9, 28, 2)]


def write(folder: Path, framework: str, version: str, op: str, rows: Mapping[str, list[Any]]) -> None:
    """One file of measurements below `folder`, which becomes a `systems` directory."""
    arrow = pytest.importorskip("pyarrow", reason="reading measurements needs the extra `measured`")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = folder / "data" / "h200_sxm" / "comm" / framework / version / f"{op}_perf.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table(dict(rows)), path)


def reduced(ranks: int, elements: int) -> float:
    """A fabricated all-reduce, ms: 6 us and 400 GB/s."""
    return 6e-3 + 2.0 * (ranks - 1) / ranks * 2.0 * elements / 400e6


def write_reduces(folder: Path, **changes: list[Any] | None) -> None:
    points = [
        (kernel, ranks, size)
        for kernel in ("vLLM_custom_graph", "vLLM_custom_eager")
        for ranks in (2, 8)
        for size in ELEMENTS
    ]
    rows: dict[str, list[Any] | None] = {
        "kernel_source": [kernel for kernel, _, _ in points],
        "num_gpus": [ranks for _, ranks, _ in points],
        "message_size": [size for _, _, size in points],
        "latency": [reduced(ranks, size) + 0.02 * kernel.endswith("eager") for kernel, ranks, size in points],
        **changes,
    }
    write(folder, "vllm", "0.24.0", "custom_allreduce", {name: part for name, part in rows.items() if part is not None})


def test_the_engines_all_reduce_is_read_by_bytes_and_in_graphs(tmp_path: Path) -> None:
    write_reduces(tmp_path)
    [table] = tables(Source(tmp_path), "h200_sxm", "vllm")
    assert (table.name, table.origin.rows, table.origin.flagged) == (ALL_REDUCE, 2 * len(ELEMENTS), 0)
    time = Fabric.of(make_pool(), collectives=collectives(table)).all_reduce(8, 8192.0)
    for elements in ELEMENTS:
        assert time(2.0 * elements / 8192.0) == pytest.approx(reduced(8, elements), rel=0.02)


def test_deepep_is_read_in_microseconds_and_by_copies(tmp_path: Path) -> None:
    shapes = [(7168, 8, 256), (4096, 6, 256), (4096, 2, 8)]
    points = [(*shape, tokens, sms) for shape in shapes for tokens in (16, 256, 4096) for sms in (4, NORMAL_SMS)]
    copies = {shape: remote_copies(NORMAL, shape[2], shape[1], 8, 8).scale_up for shape in shapes}

    def sent_us(hidden: int, topk: int, experts: int, tokens: int, size: float) -> float:
        return 20.0 + tokens * copies[hidden, topk, experts] * size * hidden / 250e3

    write(
        tmp_path,
        "sglang",
        "0.5.12",
        "wideep_deepep_normal",
        {
            "node_num": [1] * len(points),
            "hidden_size": [p[0] for p in points],
            "num_topk": [p[1] for p in points],
            "num_experts": [p[2] for p in points],
            "num_token": [p[3] for p in points],
            "dispatch_sms": [p[4] for p in points],
            "dispatch_transmit_us": [sent_us(*p[:4], 1.03125) * NORMAL_SMS / p[4] for p in points],
            "combine_transmit_us": [sent_us(*p[:4], 2.0) * NORMAL_SMS / p[4] for p in points],
        },
    )
    found = tables(Source(tmp_path), "h200_sxm", "trtllm")
    assert {table.name: len(table.keys) for table in found} == {
        "exchange.deepep_normal.dispatch": 2,
        "exchange.deepep_normal.combine": 2,
    }
    assert {table.origin.framework for table in found} == {"sglang"}
    fabric = Fabric.of(make_pool(), collectives=collectives(*found))
    shape = (7168, 8, 256)
    for phase, size in ((Phase.DISPATCH, 1.03125), (Phase.COMBINE, 2.0)):
        near = Copies(copies[shape], 0.0)
        time = fabric.exchange(near, 7168 * size, peers=7, collective=NORMAL, phase=phase)
        for tokens in (16, 256, 4096):
            assert time(float(tokens)) * 1e3 == pytest.approx(sent_us(*shape, tokens, size), rel=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latency": None}, "column 'latency' is missing"),
        ({"num_gpus": None}, "column 'num_gpus' is missing"),
        ({"latency": [-1.0] * 40}, "column 'latency', row 1: -1.0 is not a positive time"),
        ({"latency": [float("nan")] * 40}, "row 1: nan is not a finite number"),
        ({"latency": [reduced(8, size) * 1e3 for size in ELEMENTS] * 4}, "too long for milliseconds"),
        ({"kernel_source": ["unheard_of"] * 40}, "column 'kernel_source' holds unheard_of; wanted: vLLM_custom_graph"),
    ],
)
def test_what_is_no_measurement_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_reduces(tmp_path, **changes)
    with pytest.raises(SourceError, match=r"custom_allreduce_perf\.parquet") as caught:
        tables(Source(tmp_path), "h200_sxm", "vllm")
    assert message in str(caught.value)
