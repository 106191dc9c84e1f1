"""Calibration: what is measured, how it is timed, and what an interruption leaves."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.calibrate import run
from planner.calibrate.backend import Call, Candidate, NotMeasurableError
from planner.calibrate.cpu_backend import CpuBackend
from planner.calibrate.device import Device, identify
from planner.calibrate.harness import LeftOut, Timing, measure_candidate, measure_item, measure_point
from planner.calibrate.needs import needs
from planner.calibrate.table import FAMILIES, read
from planner.calibrate.work import WorkItem, WorkList, read_work
from planner.cli.calibrate import command
from planner.kernels.user_table import UserKernels
from specs import catalog
from specs.errors import SpecError
from specs.model import Precision
from tests.costs.sites import make_site

GEMM = WorkItem("gemm", (("precision", "bf16"), ("n", 48), ("k", 32)), (1, 4, 16), 0.1)
TINY = (
    GEMM,
    WorkItem(
        "grouped_gemm",
        (("precision", "fp8"), ("hidden", 32), ("intermediate", 16), ("gated", True), ("active_experts", 3)),
        (3, 6),
        0.1,
    ),
    WorkItem(
        "decode_attention",
        (("kv_precision", "bf16"), ("heads", 4), ("kv_heads", 2), ("head_dim", 8), ("queries", 1), ("context", 32)),
        (1, 4),
        0.1,
    ),
    WorkItem(
        "decode_mla",
        (
            ("kv_precision", "bf16"),
            ("heads", 4),
            ("kv_lora_rank", 16),
            ("qk_rope_head_dim", 8),
            ("queries", 1),
            ("context", 32),
        ),
        (1, 4),
        0.1,
    ),
    WorkItem(
        "prefill_attention",
        (("kv_precision", "bf16"), ("heads", 4), ("kv_heads", 2), ("head_dim", 8), ("context", 8), ("new_tokens", 16)),
        (1, 2),
        0.1,
    ),
    WorkItem(
        "prefill_mla",
        (
            ("kv_precision", "bf16"),
            ("heads", 4),
            ("kv_lora_rank", 16),
            ("qk_nope_head_dim", 8),
            ("qk_rope_head_dim", 4),
            ("v_head_dim", 8),
            ("context", 0),
            ("new_tokens", 16),
        ),
        (1, 2),
        0.1,
    ),
    WorkItem("stream", (), (4096, 65536), 0.1),
    WorkItem("all_reduce", (("ranks", 2),), (4096,), 0.1),
)
WORK = WorkList("tiny", None, TINY)


class Clockwork:
    """A backend whose kernels take the time that a function says, and whose clock is that time."""

    name = "cuda"

    def __init__(self, time_ms: Callable[[WorkItem, int], float], *, die_after: int | None = None) -> None:
        self.time_ms = time_ms
        self.die_after = die_after
        self.measured: list[tuple[WorkItem, int]] = []

    def device(self) -> Device:
        return Device("NVIDIA H200", 150_754_820_096, 0, "580.1", "2.11.0")

    def open(self, item: WorkItem) -> Any:
        if item.operator == "all_reduce":
            raise NotMeasurableError("one GPU")
        backend = self

        class Bench:
            def candidates(self, value: int) -> Sequence[Candidate]:
                if backend.die_after is not None and len(backend.measured) == backend.die_after:
                    raise KeyboardInterrupt
                backend.measured.append((item, value))
                return [Candidate("clockwork", [lambda: backend.time_ms(item, value)])]

        return Bench()

    def estimate_ms(self, calls: Sequence[Call]) -> float:
        return self.sampler(calls, 1)()

    def sampler(self, calls: Sequence[Call], count: int) -> Callable[[], float]:
        return lambda: float(np.mean([calls[i % len(calls)]() for i in range(count)]))  # type: ignore[arg-type]

    def collective_samples_ms(self, item: WorkItem) -> dict[int, list[float]]:
        return {value: [0.01, 0.011, 0.012] for value in item.values}


def linear(item: WorkItem, value: int) -> float:
    return 0.01 + 1e-4 * value


def test_every_kernel_of_the_cpu_backend_computes_what_it_is_named_after() -> None:
    backend = CpuBackend()
    for item in TINY[:-1]:
        bench = backend.open(item)
        for value in item.values:
            (candidate,) = bench.candidates(value)
            result = candidate.calls[0]()
            parts = result if isinstance(result, list) else [result]
            found = np.concatenate([np.asarray(part).reshape(-1) for part in parts])
            assert np.isfinite(found).all()
            shape = dict(item.keys)
            outputs = {
                "gemm": lambda value, shape: value * shape["n"],
                "grouped_gemm": lambda value, shape: value * shape["hidden"],
                "decode_attention": lambda value, shape: value * shape["heads"] * shape["head_dim"],
                "decode_mla": lambda value, shape: value * shape["heads"] * shape["kv_lora_rank"],
                "prefill_attention": lambda value, shape: value * shape["heads"] * 16 * shape["head_dim"],
                "prefill_mla": lambda value, shape: value * shape["heads"] * 16 * shape["v_head_dim"],
                "stream": lambda value, shape: value // 8,  # read and written, four bytes each
            }[item.operator](value, shape)
            assert found.size == outputs
    assert set(FAMILIES) == {item.operator for item in TINY}


def test_a_run_on_the_cpu_writes_a_table_that_plans_nothing(tmp_path: Path) -> None:
    out = tmp_path / "cpu.jsonl"
    outcome = run.execute(WORK, out, CpuBackend())
    table = read(out)
    assert outcome.complete
    assert {row.point for row in table.rows} == {(item.curve, value) for item in TINY[:-1] for value in item.values}
    assert all(row.time_ms > 0 and row.kernel == "numpy float32" for row in table.rows)
    assert [part.why for part in outcome.left_out if "all_reduce" in part.what] == ["needs several GPUs"]
    assert (table.header.gpu, table.header.backend, table.header.models) == ("cpu", "cpu", ("tiny",))
    assert UserKernels.of(out, read(out), catalog.gpu("h200")) is None
    assert [path.name for path in tmp_path.iterdir()] == ["cpu.jsonl"]


def test_times_are_those_of_the_clock(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    run.execute(WORK, out, Clockwork(linear))
    for row in read(out).rows:
        expected = 0.011 if row.operator == "all_reduce" else 0.01 + 1e-4 * row.value
        assert row.time_ms == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 5, 9])
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, rows: int) -> None:
    out = tmp_path / "t.jsonl"
    first = Clockwork(linear, die_after=rows)
    with pytest.raises(KeyboardInterrupt):
        run.execute(WORK, out, first)
    assert not out.exists()
    partial = run.partial_path(out)
    partial.write_text(partial.read_text() + '{"operator": "gemm", "prec')  # killed while it wrote
    second = Clockwork(linear)
    outcome = run.execute(WORK, out, second)
    everything = [(item, value) for item in TINY[:-1] for value in item.values]
    assert first.measured + second.measured == everything
    assert (outcome.kept, outcome.measured, outcome.complete) == (rows, len(everything) + 1 - rows, True)
    assert not partial.exists()
    fresh = tmp_path / "fresh.jsonl"
    run.execute(WORK, fresh, Clockwork(linear))
    assert read(out).rows == read(fresh).rows


def test_a_time_limit_leaves_the_rest_for_the_next_run(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    outcome = run.execute(WORK, out, Clockwork(linear), minutes=1e-9)
    assert (outcome.complete, outcome.measured) == (False, 0)
    assert not out.exists()
    assert run.execute(WORK, out, Clockwork(linear)).complete


def test_a_second_model_extends_the_table(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    run.execute(replace(WORK, items=TINY[:2]), out, Clockwork(linear))
    backend = Clockwork(linear)
    outcome = run.execute(replace(WORK, model="other", items=(TINY[0], TINY[2])), out, backend)
    assert [item for item, _ in backend.measured] == [TINY[2], TINY[2]]
    assert (outcome.kept, outcome.measured) == (3, 2)
    assert read(out).header.models == ("tiny", "other")
    assert len(read(out).rows) == 7


def test_tables_of_two_machines_are_not_mixed(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    run.execute(WORK, out, CpuBackend())
    before = out.read_bytes()
    with pytest.raises(SpecError, match="was measured on"):
        run.execute(WORK, out, Clockwork(linear))
    with pytest.raises(SpecError, match="not h100-sxm-80gb"):
        run.execute(replace(WORK, gpu="h100-sxm-80gb"), tmp_path / "u.jsonl", Clockwork(linear))
    assert out.read_bytes() == before
    out.write_bytes(before[:-20])
    with pytest.raises(SpecError):
        run.execute(WORK, out, CpuBackend())


def test_a_point_far_above_a_larger_one_is_measured_again_or_left_out(tmp_path: Path) -> None:
    def once(item: WorkItem, value: int) -> float:
        times_seen = [seen for _, seen in backend.measured].count(value)
        return 5.0 if value == 4 and times_seen == 1 else 0.01

    backend = Clockwork(once)
    outcome = run.execute(replace(WORK, items=(GEMM,)), tmp_path / "a", backend)
    assert [row.time_ms for row in read(tmp_path / "a").rows] == [0.01, 0.01, 0.01]
    assert outcome.left_out == ()
    always = Clockwork(lambda item, value: 5.0 if value == 4 else 0.01)
    outcome = run.execute(replace(WORK, items=(GEMM,)), tmp_path / "b", always)
    assert [row.value for row in read(tmp_path / "b").rows] == [1, 16]
    assert [part.why for part in outcome.left_out] == ["more than twice a larger point"]


class Scripted(Clockwork):
    """Samples in a given order."""

    def __init__(self, samples: Sequence[float]) -> None:
        super().__init__(linear)
        self.samples = iter(samples)

    def estimate_ms(self, calls: Sequence[Call]) -> float:
        return 1.0

    def sampler(self, calls: Sequence[Call], count: int) -> Callable[[], float]:
        return lambda: next(self.samples)


def test_the_median_of_the_steadiest_set_of_samples_counts() -> None:
    shaky = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0]
    steady = [1.5, 1.5, 1.5, 1.5, 1.51, 1.51, 1.51, 9.0, 1.51]
    timing = measure_candidate(Scripted([7.0, *shaky, *steady]), Candidate("k", [lambda: None]))
    assert timing.time_ms == 1.51
    assert timing.spread < 0.02
    with pytest.raises(NotMeasurableError):
        Timing.of([1.0, 0.0])


def test_the_fastest_candidate_that_is_no_stand_in_is_taken() -> None:
    def fails() -> object:
        raise RuntimeError("no kernel image")

    def takes(time_ms: float) -> Sequence[Call]:
        return [lambda: time_ms]

    backend = Clockwork(linear)
    candidates = [
        Candidate("broken", [fails]),
        Candidate("slow", takes(3.0)),
        Candidate("fast", takes(2.0)),
        Candidate("stand-in", takes(1.0), stand_in=True),
    ]
    assert measure_point(backend, candidates)[0].kernel == "fast"
    assert measure_point(backend, candidates[::3])[0].kernel == "stand-in"
    with pytest.raises(NotMeasurableError, match="broken: no kernel image"):
        measure_point(backend, candidates[:1])


def test_a_sample_visits_every_copy_and_lasts_long_enough() -> None:
    counts = []

    class Counting(Clockwork):
        def sampler(self, calls: Sequence[Call], count: int) -> Callable[[], float]:
            counts.append(count)
            return super().sampler(calls, count)

    for time_ms in (0.001, 0.1, 40.0):
        copies: list[Call] = [lambda time_ms=time_ms: time_ms] * 20  # type: ignore[misc]
        measure_candidate(Counting(linear), Candidate("k", copies))
    assert counts[1::2] == [300, 20, 1]

    class Launching(Counting):
        """Launches take far longer than the kernel itself."""

        def estimate_ms(self, calls: Sequence[Call]) -> float:
            return 0.02

    counts.clear()
    measure_candidate(Launching(linear), Candidate("k", [lambda: 0.002]))
    assert counts == [15, 150]


def test_points_that_were_measured_are_not_measured_again() -> None:
    backend = Clockwork(linear)
    left: list[LeftOut] = []
    rows = list(measure_item(backend, GEMM, {(GEMM.curve, 4)}, left.append))
    assert [row.value for row in rows] == [1, 16]
    assert left == []
    reduce = WorkItem("all_reduce", (("ranks", 2),), (4096, 65536, 1 << 20), 0.1)
    assert [row.value for row in measure_item(backend, reduce, {(reduce.curve, 65536)}, left.append)] == [4096, 1 << 20]


@pytest.mark.parametrize(
    ("name", "gib", "expected"),
    [
        ("NVIDIA H200", 140.4, "h200-sxm-141gb"),
        ("NVIDIA H100 80GB HBM3", 79.6, "h100-sxm-80gb"),
        ("NVIDIA A100-SXM4-80GB", 79.6, "a100-sxm-80gb"),
        ("NVIDIA L40S", 45.0, "l40s-pcie-48gb"),
        ("NVIDIA B200", 179.0, "b200-sxm-180gb"),
        ("NVIDIA GB200", 185.0, "gb200-nvl72-186gb"),
        ("NVIDIA H20", 95.6, "h20-sxm-96gb"),
    ],
)
def test_devices_are_recognised(name: str, gib: float, expected: str) -> None:
    assert identify(name, int(gib * 2**30)) == expected


def test_devices_outside_the_catalogue_are_refused() -> None:
    for name, gib in (("NVIDIA GeForce RTX 4090", 24), ("NVIDIA A100-SXM4-40GB", 40), ("NVIDIA H200", 70)):
        with pytest.raises(SpecError, match="accepted:"):
            identify(name, gib << 30)


def qwen(**given: Any) -> WorkList:
    fields = {"tp": (2, 8), "ep": (8,), "precision": Precision.FP8, "kv_dtype": Precision.BF16, **given}
    return needs("Qwen/Qwen3-32B", catalog.gpu("h200"), **fields)


def test_the_work_covers_every_operator_that_a_site_asks_for() -> None:
    """A table of exactly the listed points answers all products and attention cores of the layouts."""
    for model, tp in (("Qwen/Qwen3-32B", 2), ("deepseek-ai/DeepSeek-V3", 8)):
        work = needs(model, catalog.gpu("h200"), tp=(tp,), ep=(tp,), precision=Precision.FP8, kv_dtype=Precision.BF16)
        site = make_site("h200", model, precision="fp8", kv_cache_dtype="bf16")
        header = run.header_of(work, Clockwork(linear))
        rows = [row for item in work.items for row in measure_item(Clockwork(linear), item, set(), lambda _: None)]
        user = UserKernels(header, rows, catalog.gpu("h200"), "t")
        calibrated = type(site).of(site.service, site.pool, libraries=(user,))
        side = calibrated.attention(tp)
        for index in range(len(site.model.layers)):
            side.token_parts(index)
            side.decode_core(index, 2000.0, 2500.0)
            side.prefill_core(index, 2000.0, 0.0)
            if calibrated.moe is not None:
                for ep, moe_tp in ((tp, 1), (1, tp), (4 * tp, 1)):
                    calibrated.experts(ep, moe_tp, 256).expert_time(index)
        side.head_parts()
        assert set(calibrated.kernels.used.values()) == {user}
        assert len(work.items) == len({item.curve for item in work.items})


def test_what_no_kernel_measures_is_said() -> None:
    assert "attention over a fp8 cache: no kernel here" in qwen(kv_dtype=Precision.FP8).left_out
    assert any("fp4" in reason for reason in needs_of("openai/gpt-oss-120b", Precision.FP4).left_out)
    assert any("sparse" in reason for reason in needs_of("deepseek-ai/DeepSeek-V3.2", Precision.FP8).left_out)
    assert any("tp 3" in reason for reason in qwen(tp=(1, 3)).left_out)
    with pytest.raises(SpecError, match="divides over none of 3, 7") as caught:
        qwen(tp=(3, 7))
    assert caught.value.field == "--tp"


def needs_of(model: str, precision: Precision) -> WorkList:
    return needs(model, catalog.gpu("h200"), tp=(1,), ep=(8,), precision=precision, kv_dtype=Precision.BF16)


def test_a_model_is_measured_within_minutes() -> None:
    assert 60 < qwen(tp=(1, 2, 4, 8)).expected_s < 360
    assert needs_of("deepseek-ai/DeepSeek-V3", Precision.FP8).expected_s < 360


def test_a_work_list_survives_the_journey(tmp_path: Path) -> None:
    work = qwen()
    path = tmp_path / "work.json"
    path.write_text(work.to_json())
    carried = read_work(path)
    assert [(item.curve, item.values) for item in carried.items] == [(item.curve, item.values) for item in work.items]
    assert (carried.model, carried.gpu, carried.left_out) == (work.model, work.gpu, work.left_out)


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda found: found.update(schema="other"), "schema"),
        (lambda found: found.update(items=3), "items"),
        (lambda found: found["items"].append(3), "items"),
        (lambda found: found["items"][0].update(values=[2, 1]), "values"),
        (lambda found: found["items"][0].update(values=[0]), "values"),
        (lambda found: found["items"][0].update(expected_s="soon"), "expected_s"),
        (lambda found: found["items"][0].update(expected_s=-1), "expected_s"),
        (lambda found: found["items"][0].update(expected_s=float("nan")), "expected_s"),
        (lambda found: found["items"][0].update(n="x"), "n"),
        (lambda found: found["items"][0].pop("n"), "n"),
    ],
)
def test_a_bad_work_list_is_refused(tmp_path: Path, edit: Callable[[Any], Any], field: str) -> None:
    found = json.loads(qwen().to_json())
    edit(found)
    path = tmp_path / "work.json"
    path.write_text(json.dumps(found))
    with pytest.raises(SpecError) as caught:
        read_work(path)
    assert (caught.value.field, caught.value.file) == (field, str(path))


def cli(*arguments: str) -> int:
    return int(command.main(["--model", "Qwen/Qwen3-32B", *arguments], standalone_mode=False))


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.usefixtures("no_torch")
def test_a_dry_run_needs_no_gpu(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli("--dry-run", "--gpu", "h200", "--tp", "2") == 0
    text = capsys.readouterr().out
    assert "gemm precision=fp8" not in text  # the model's own weights are BF16
    assert "gemm precision=bf16 n=5120 k=4096 rows=1..16384" in text
    assert "about" in text
    assert "minutes on h200-sxm-141gb" in text
    assert cli("--dry-run", "--json", "--tp", "2") == 0
    path = tmp_path / "work.json"
    path.write_text(capsys.readouterr().out)
    assert read_work(path).gpu is None


@pytest.mark.usefixtures("no_torch")
def test_without_pytorch_or_gpu_the_error_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SpecError, match="needs PyTorch") as caught:
        cli("--out", str(tmp_path / "t"))
    assert caught.value.field == "--backend"
    work = tmp_path / "work.json"
    work.write_text(qwen().to_json())
    assert run.main([str(work), str(tmp_path / "t")]) == 2
    assert "needs PyTorch" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_the_command_measures_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.jsonl"
    assert cli("--backend", "cpu", "--tp", "8", "--out", str(out), "--minutes", "0.005", "--json") == 5
    found = json.loads(capsys.readouterr().out)
    assert (found["complete"], found["out"]) == (False, f"{out}.partial")
    assert found["measured"] >= 1
    work = tmp_path / "work.json"
    work.write_text(WORK.to_json())
    assert run.main([str(work), str(tmp_path / "u"), "--backend", "cpu"]) == 0
    assert "left out: all_reduce" in capsys.readouterr().out
    assert len(read(tmp_path / "u").rows) == 15


def test_the_measuring_half_imports_no_package_beyond_numpy() -> None:
    import subprocess

    code = (
        "import sys, planner.calibrate.run\n"
        "found = {'pydantic', 'click', 'yaml', 'pyomo', 'highspy', 'rich'} & set(sys.modules)\n"
        "sys.exit(', '.join(found) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
