"""Time, memory and answers of the benchmark cases, beside AIConfigurator's: `python benchmarks/run.py`.

Prints one markdown table and gates nothing. Every run is a fresh process; CPU seconds (user and system) and peak
resident memory are those that the operating system accounts to it. `--write docs/peers.md` renews the page's tables.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pages import EXAMPLES, ROOT, plan_words, table, write_between

from specs.plan import Plan

CLEAVE = str(Path(sys.executable).with_name("cleave"))
HEADLINE = "aiconfigurator-deepseek-v3-64xh200-sglang"
HEADLINE_REPEATS = 3
MIB_PER_KIB = 1.0 / 1024.0


@dataclass(frozen=True)
class Peer:
    """What AIConfigurator 0.12 was measured to need and answers, on 2 cores, single-threaded.

    Args:
        cpu_s: CPU seconds of its search.
        plan: its best plan.
        tokens_per_s_per_gpu: that plan's throughput in AIConfigurator's own cost model.
    """

    cpu_s: float
    plan: str
    tokens_per_s_per_gpu: float


_V32 = Peer(153.0, "2P tp2 dp4 ep8 + 1D tp2 dp8 ep16 (three engines in one search)", 225.0)
PEERS = {
    "aiconfigurator-qwen3-32b-8xh200": Peer(13.1, "aggregated tp4 x 2", 558.0),
    "aiconfigurator-qwen3-32b-fp8-32xh200": Peer(15.1, "20P tp1 + 3D tp4", 954.0),
    "aiconfigurator-llama-3.1-70b-8xh100": Peer(11.9, "2P tp2 + 1D tp4", 224.0),
    "aiconfigurator-qwen3-235b-fp8-32xh200": Peer(62.6, "(4P ep2 + 1D ep8) x 2", 439.0),
    "aiconfigurator-deepseek-v3-16xh200": Peer(39.2, "aggregated dp16 ep16", 148.0),
    "aiconfigurator-deepseek-v3-64xh200-trtllm": Peer(54.1, "2P ep16 + 1D ep32", 248.0),
    "aiconfigurator-deepseek-v3-64xh200-sglang": Peer(211.5, "4P ep8 + 1D ep32", 339.0),
    "aiconfigurator-deepseek-v3.2-32xh200-sglang": _V32,
    "aiconfigurator-deepseek-v3.2-32xh200-trtllm": _V32,
    "aiconfigurator-deepseek-v3.2-32xh200-vllm": _V32,
    "aiconfigurator-deepseek-v3-64xgb200": Peer(64.0, "5P + 3D of 8 GPUs", 731.0),
    "aiconfigurator-deepseek-v3.1-nvfp4-32xb200": Peer(75.2, "5P + 1D, 28 of 32 GPUs", 881.0),
    "aiconfigurator-qwen3-30b-a3b-512xh100": Peer(90.8, "12 replicas, 480 of 512 GPUs", 2020.0),
}


@dataclass(frozen=True)
class Run:
    """One process.

    Args:
        cpu_s: user and system seconds.
        wall_s: wall seconds.
        peak_mib: peak resident memory.
        output: its standard output.
    """

    cpu_s: float
    wall_s: float
    peak_mib: float
    output: str


def measure(*arguments: str) -> Run:
    """Run `cleave` in a fresh process.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        begun = time.perf_counter()
        child = subprocess.Popen([CLEAVE, *arguments], stdout=output, stderr=subprocess.DEVNULL, cwd=ROOT)
        # wait4 and not RUSAGE_CHILDREN, whose peak is that of the largest child so far.
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if child.returncode != 0:
        raise RuntimeError(f"cleave {' '.join(arguments)} ended with {child.returncode}: {text.strip()}")
    return Run(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * MIB_PER_KIB, text)


def middle(runs: list[Run]) -> Run:
    """Medians of time and memory over repeated runs, with the output of the last."""
    return Run(
        statistics.median(run.cpu_s for run in runs),
        statistics.median(run.wall_s for run in runs),
        statistics.median(run.peak_mib for run in runs),
        runs[-1].output,
    )


def help_row() -> list[str]:
    """The row of `cleave --help`."""
    run = middle([measure("--help") for _ in range(HEADLINE_REPEATS)])
    return ["`cleave --help`", f"{run.cpu_s:.2f}", f"{run.wall_s:.2f}", f"{run.peak_mib:.0f}", *[""] * 7]


def plan_row(name: str, repeats: int) -> list[str]:
    """The row of one scenario."""
    arguments = ("plan", str((EXAMPLES / f"{name}.yaml").relative_to(ROOT)), "--json")
    run = middle([measure(*arguments) for _ in range(repeats)])
    plan = Plan.model_validate_json(run.output)
    tokens = sum(service.throughput_tok_s for service in plan.services)
    gpus = sum(plan.gpus_used.values()) + sum(plan.gpus_idle.values())
    peer = PEERS[name]
    return [
        name.removeprefix("aiconfigurator-"),
        f"{run.cpu_s:.1f}",
        f"{run.wall_s:.1f}",
        f"{run.peak_mib:.0f}",
        plan_words(plan),
        f"{tokens:,.0f}",
        f"{tokens / gpus:,.0f}",
        f"{plan.certificate.gap or 0.0:.3%}",
        f"{peer.cpu_s:.1f}",
        peer.plan,
        f"{peer.tokens_per_s_per_gpu:,.0f}",
    ]


def measured() -> str:
    """The table of all cases."""
    header = ["case", "CPU s", "wall s", "peak MiB", "plan", "tok/s", "tok/s/GPU", "gap"]
    header += ["AIC CPU s", "AIC plan", "AIC tok/s/GPU"]
    rows = [help_row(), plan_row(HEADLINE, HEADLINE_REPEATS)]
    rows += [plan_row(name, 1) for name in sorted(PEERS) if name != HEADLINE]
    return table(header, rows, numbers=(1, 2, 3, 5, 6, 7, 8, 10))


def main() -> None:
    """Measure, print, and write the page where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="renew the table of this page")
    page = parser.parse_args().write
    text = measured()
    print(text)
    if page is not None:
        write_between(page, {"measured": text})


if __name__ == "__main__":
    main()
