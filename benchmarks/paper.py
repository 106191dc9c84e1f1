"""The tables of docs/paper.md: `python benchmarks/paper.py --write docs/paper.md` (some minutes on one core).

Every figure of that page between markers is computed here from the three strict scenarios of `examples/`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from pages import EXAMPLES, MODE_WORDS, plan_words, table, write_between

from planner.api import plan
from planner.costs.queueing import prefill_wait_ms
from planner.options.times import DecodeTimes
from planner.reevaluate import server_of, worker_of
from planner.relax import least_latencies
from planner.space import FULL_SPEED, ServiceSpace, Slowdown, Space
from specs.load import load_scenario
from specs.plan import Deployment, Plan, PoolPlan, Role
from specs.scenario import Scenario
from specs.service import Mode

NAMES = ("chat", "coding", "agentic")
CLAIM_TOK_S = 4000.0
"""Output tokens/s that the paper's abstract states for AFD under the strict SLOs."""

SLOWER = Slowdown(kernels=1.3, network=1.3)
TTFT_FACTORS = (2.0, 5.0, 20.0)
RELAXED_TPOT_MS = 30.0
SUM_TOLERANCE = 0.01
"""Relative difference that the parts of a TTFT may have from the plan's figure."""

GB = 1e9


# -- plans ------------------------------------------------------------------------------------------------------------


@cache
def scenario(name: str) -> Scenario:
    """One of the examples."""
    return load_scenario(str(EXAMPLES / f"{name}.yaml"))


def changed(
    base: Scenario, *, modes: Sequence[Mode] | None = None, slo: dict[str, float] | None = None, **workload: object
) -> Scenario:
    """A scenario of one service with other modes, SLO or fields of its workload."""
    (service,) = base.services
    update: dict[str, object] = {}
    if modes is not None:
        update["modes"] = tuple(modes)
    if slo:
        update["slo"] = service.slo.model_copy(update=slo)
    if workload:
        assert not isinstance(service.workload, str)  # the examples write their workloads out
        update["workload"] = service.workload.model_copy(update=workload)
    return base.model_copy(update={"services": (service.model_copy(update=update),)})


def by_mode(base: Scenario, slowdown: Slowdown = FULL_SPEED) -> dict[Mode, Plan]:
    """The best plan of every mode alone."""
    result = {}
    for mode in Mode:
        print(f"  {base.services[0].name}: {mode.value}", file=sys.stderr)
        result[mode] = plan(changed(base, modes=[mode]), explain=False, slowdown=slowdown)
    return result


@cache
def strict(name: str, slowdown: Slowdown = FULL_SPEED) -> dict[Mode, Plan]:
    """The best plan of every mode of a strict scenario."""
    return by_mode(scenario(name), slowdown)


def tokens(found: Plan) -> float:
    """Output tokens/s; 0 without a plan."""
    return found.services[0].throughput_tok_s if found.services else 0.0


def best(plans: dict[Mode, Plan]) -> Mode:
    """The mode with the most tokens/s."""
    return max(plans, key=lambda mode: tokens(plans[mode]))


@cache
def part(name: str, slowdown: Slowdown = FULL_SPEED) -> ServiceSpace:
    """The declared space of a strict scenario's service."""
    return Space.of(scenario(name), slowdown=slowdown).services[0]


# -- results ----------------------------------------------------------------------------------------------------------


def killed_by(name: str, mode: Mode, slowdown: Slowdown) -> str:
    """Which SLO no server of a mode meets, from the least latencies that any has with nearly no load."""
    space = part(name, slowdown)
    ttft, tpot = space.targets.ttft_ms, space.targets.tpot_ms
    first, _ = least_latencies(space, mode, ttft_ms=math.inf, tpot_ms=tpot)
    _, each = least_latencies(space, mode, ttft_ms=ttft, tpot_ms=math.inf)
    if first is not None and first > ttft:
        return f"dead by TTFT: at least {first:.1f} ms while TPOT <= {tpot:g} ms, of {ttft:g} ms"
    if each is not None and each > tpot:
        return f"dead by TPOT: at least {each:.1f} ms while TTFT <= {ttft:g} ms, of {tpot:g} ms"
    return "dead: no server holds the weights and one request within both SLOs"


def result_rows(slowdown: Slowdown) -> Iterator[list[str]]:
    """Scenario x mode: what is reached, or what kills it."""
    for name in NAMES:
        plans = strict(name, slowdown)
        for mode, found in plans.items():
            if not found.services:
                yield [name, MODE_WORDS[mode], "0", "", "", "", killed_by(name, mode, slowdown)]
                continue
            (service,) = found.services
            mark = "**" if mode is best(plans) else ""
            yield [
                name,
                MODE_WORDS[mode],
                f"{mark}{tokens(found):,.0f}{mark}",
                f"{found.certificate.gap:.2%}",
                f"{service.ttft_ms:.1f}",
                f"{service.tpot_ms:.2f}",
                plan_words(found).replace(f"{MODE_WORDS[mode]}: ", ""),
            ]


def results(slowdown: Slowdown) -> str:
    """The main table, at full speed or slowed down."""
    header = ["scenario", "mode", "tokens/s", "gap", "TTFT ms", "TPOT ms", "best plan, or what kills the mode"]
    return table(header, result_rows(slowdown), numbers=(2, 3, 4, 5))


def verdicts() -> str:
    """The paper's two claims beside ours, per scenario."""
    header = ["scenario", "best with AFD", "best without AFD", "AFD reaches 4,000", "without AFD infeasible"]
    header += ["30% slower: with / without AFD"]
    rows = []
    for name in NAMES:
        reached = [_with_and_without(strict(name, speed)) for speed in (FULL_SPEED, SLOWER)]
        afd, other = reached[0]
        rows.append(
            [
                name,
                f"{afd:,.0f}",
                f"{other:,.0f}",
                "agrees" if afd >= CLAIM_TOK_S else "disagrees",
                "agrees" if other == 0.0 else f"disagrees: {other / CLAIM_TOK_S:.1f} x 4,000",
                f"{reached[1][0]:,.0f} / {reached[1][1]:,.0f}",
            ]
        )
    return table(header, rows, numbers=(1, 2))


def _with_and_without(plans: dict[Mode, Plan]) -> tuple[float, float]:
    afd = {Mode.AFD, Mode.PREFILL_DECODE_AFD}
    return max(tokens(plans[mode]) for mode in afd), max(tokens(plans[mode]) for mode in plans if mode not in afd)


def _mode_cells(plans: dict[Mode, Plan]) -> list[str]:
    top = best(plans)
    cells = [f"{tokens(found):,.0f}" if found.services else "-" for found in plans.values()]
    return [f"**{cell}**" if mode is top and cell != "-" else cell for mode, cell in zip(plans, cells, strict=True)]


def residency() -> str:
    """Where the prefix lies, and whether requests share it."""
    both = ("prefill", "decode")
    cases: list[tuple[str, tuple[str, ...], str]] = [
        ("prefill and decode", both, "none"),
        ("decode only", ("decode",), "none"),
        ("prefill only", ("prefill",), "none"),
        ("prefill and decode", both, "all"),
        ("prefill only", ("prefill",), "all"),
    ]
    rows = []
    for name in NAMES:
        space = part(name)
        moved = space.sites[0].attention(1).kv_bytes(space.sites[0].lengths.prefix)
        for words, at, sharing in cases:
            plans = strict(name)
            if (at, sharing) != (both, "none"):
                plans = by_mode(changed(scenario(name), prefix_at=at, prefix_sharing=sharing))
            rows.append(
                [name, words, sharing, "0" if at == both else f"{moved / GB:.2f}", *_mode_cells(plans)],
            )
    header = ["scenario", "prefix resident at", "shared by", "prefix GB moved per request (P/D)"]
    return table(header + list(MODE_WORDS.values()), rows, numbers=range(3, 8))


def relaxed() -> str:
    """Tokens/s as one SLO is relaxed."""
    rows = []
    for name in NAMES:
        slo = scenario(name).services[0].slo
        assert slo.ttft_ms is not None  # the examples state both
        rows.append([name, f"{slo.ttft_ms:g}", f"{slo.tpot_ms:g}", *_mode_cells(strict(name))])
        for factor in TTFT_FACTORS:
            ttft = slo.ttft_ms * factor
            plans = by_mode(changed(scenario(name), slo={"ttft_ms": ttft}))
            rows.append([name, f"{ttft:g}", f"{slo.tpot_ms:g}", *_mode_cells(plans)])
        plans = by_mode(changed(scenario(name), slo={"tpot_ms": RELAXED_TPOT_MS}))
        rows.append([name, f"{slo.ttft_ms:g}", f"{RELAXED_TPOT_MS:g}", *_mode_cells(plans)])
    return table(["scenario", "TTFT ms", "TPOT ms", *MODE_WORDS.values()], rows, numbers=range(1, 7))


# -- where the first token's time goes --------------------------------------------------------------------------------


@dataclass(frozen=True)
class TtftParts:
    """Parts of one path's TTFT in ms.

    Args:
        path: pools of the path.
        wait: for a prefill step, or for a lane.
        prefill: all chunks.
        transfer: exposed part of the KV transfer.
        decode: wait for a slot, and the decode step that emits the first token.
    """

    path: str
    wait: float
    prefill: float
    transfer: float
    decode: float

    @property
    def whole(self) -> float:
        """TTFT."""
        return self.wait + self.prefill + self.transfer + self.decode


def ttft_parts(space: ServiceSpace, deployment: Deployment) -> TtftParts:
    """Parts of the slowest path's TTFT of a deployment."""
    prefill = [pool for pool in deployment.pools if pool.role is Role.PREFILL]
    decode = [pool for pool in deployment.pools if pool.role in (Role.DECODE, Role.ATTENTION)]
    if not prefill:
        return _serving_parts(space, deployment)
    paths = [_handed_parts(space, p, d, deployment.pools) for p in prefill for d in decode]
    return max(paths, key=lambda parts: parts.whole)


def _unit(pool: PoolPlan, pools: Sequence[PoolPlan]) -> list[PoolPlan]:
    return [other for other in pools if other is pool or (pool.unit is not None and other.unit == pool.unit)]


def _handed_parts(space: ServiceSpace, prefill: PoolPlan, decode: PoolPlan, pools: Sequence[PoolPlan]) -> TtftParts:
    worker, server = worker_of(prefill, space.sites), server_of(_unit(decode, pools), space.sites)
    chunks = max(1, round(prefill.batch * worker.site.lengths.input / prefill.chunk_tokens))
    time = float(worker.prefill_ms(float(prefill.batch), chunks))
    targets = space.targets
    wait = float(prefill_wait_ms(prefill.utilisation, prefill.batch, time, targets.queue_cv, targets.statistic))
    link = min(prefill.tp * prefill.pp, server.links) * worker.site.fabric.scale_out_bytes_per_ms
    on_rank = np.array(math.ceil(prefill.batch / prefill.dp), dtype=float)
    exposed = float(space.transfer().exposed_ms(on_rank, link, np.array(chunks), np.array(time)))
    slots = np.full((1, 1), float(decode.batch))
    first = DecodeTimes(server, targets).first_ms(slots, slots * decode.utilisation)
    words = f"prefill pp{prefill.pp} tp{prefill.tp} dp{prefill.dp}, {chunks} chunks"
    return TtftParts(words, wait, time, exposed, float(first[0, 0]))


def _serving_parts(space: ServiceSpace, deployment: Deployment) -> TtftParts:
    lead = next(pool for pool in deployment.pools if pool.role is not Role.FFN)
    server = server_of(deployment.pools, space.sites)
    per_lane = lead.chunk_tokens if len(deployment.pools) > 1 else lead.chunk_tokens / int(server.lanes[0])
    chunks = max(1, round(server.site.lengths.input / per_lane))
    slots = np.full((1, 1), float(lead.batch))
    seen = DecodeTimes(server, space.targets).seen(slots, slots * lead.utilisation)
    prefill = chunks * float(server.mixed_step_ms(seen, slots, np.full((1, 1), chunks))[0, 0])
    assert deployment.ttft_ms is not None  # the scenarios bound TTFT
    return TtftParts(f"{chunks} mixed steps", deployment.ttft_ms - prefill, prefill, 0.0, 0.0)


def budget() -> str:
    """TTFT of the best P/D and aggregated plans in parts."""
    rows = []
    for name in NAMES:
        for mode in (Mode.PREFILL_DECODE, Mode.AGGREGATED):
            found = strict(name)[mode]
            limit = part(name).targets.ttft_ms
            if not found.services:
                first, _ = least_latencies(part(name), mode, ttft_ms=math.inf, tpot_ms=part(name).targets.tpot_ms)
                least = "-" if first is None else f"{first:.1f}"
                rows.append(
                    [name, MODE_WORDS[mode], "no plan; the fastest server, empty", *[""] * 4, least, f"{limit:g}"]
                )
                continue
            (deployment, *_) = found.services[0].deployments
            parts = ttft_parts(part(name), deployment)
            if abs(parts.whole - (deployment.ttft_ms or 0.0)) > SUM_TOLERANCE * parts.whole:
                raise RuntimeError(f"{name} {mode}: parts add up to {parts.whole}, the plan says {deployment.ttft_ms}")
            figures = (parts.wait, parts.prefill, parts.transfer, parts.decode, parts.whole)
            rows.append([name, MODE_WORDS[mode], parts.path, *(f"{figure:.1f}" for figure in figures), f"{limit:g}"])
    header = [
        "scenario",
        "mode",
        "slowest path",
        "wait ms",
        "prefill ms",
        "transfer ms",
        "decode ms",
        "TTFT ms",
        "SLO ms",
    ]
    return table(header, rows, numbers=range(3, 9))


# -- what must hold whatever the kernels ------------------------------------------------------------------------------


def memory() -> str:
    """Little's law and KV memory of the best plan of every scenario."""
    rows = []
    for name in NAMES:
        plans, space = strict(name), part(name)
        found = plans[best(plans)]
        if not found.services:
            continue
        (service,) = found.services
        site = space.sites[0]
        lengths = site.lengths
        per_request = site.attention(1).kv_bytes(lengths.full_context)
        for deployment in service.deployments:
            for pool in deployment.pools:
                if pool.role not in (Role.MIXED, Role.DECODE, Role.ATTENTION):
                    continue
                if pool.role is Role.ATTENTION:
                    weights = site.attention(pool.tp).weight_bytes()
                else:
                    weights = worker_of(pool, space.sites).weight_bytes
                free = site.memory_bytes - weights
                # MLA's latent is held whole by every tensor-parallel rank, so a rank's GPUs hold what one of them does.
                ranks = pool.dp * pool.replicas
                in_flight = pool.batch * pool.replicas * pool.utilisation
                rows.append(
                    [
                        name,
                        f"{MODE_WORDS[deployment.mode]}, {pool.role.value} tp{pool.tp}",
                        f"{CLAIM_TOK_S * space.targets.tpot_ms / 1e3:.0f}",
                        f"{in_flight:,.0f}",
                        f"{pool.batch * pool.replicas:,}",
                        f"{per_request / GB:.2f}",
                        f"{weights / GB:.1f}",
                        f"{free / GB:.1f}",
                        f"{ranks:,}",
                        f"{ranks * math.floor(free / per_request):,}",
                    ]
                )
    header = ["scenario", "best mode, pool", "in flight for 4,000 tokens/s", "in flight", "slots", "KV GB per request"]
    header += ["weights GB per GPU", "left GB per GPU", "attention ranks", "requests that fit"]
    return table(header, rows, numbers=range(2, 10))


def plausibility() -> str:
    """The paper's placement of 2 attention and 126 FFN GPUs, in figures of the model."""
    space = part("agentic")
    site, moe = space.sites[0], space.sites[0].moe
    assert moe is not None  # DeepSeek-V3.2
    per_request = site.attention(1).kv_bytes(site.lengths.full_context)
    free = site.memory_bytes - site.attention(1).weight_bytes()
    held = 2 * math.floor(free / per_request)
    _, least = least_latencies(space, Mode.PREFILL_DECODE_AFD, ttft_ms=math.inf, tpot_ms=math.inf)
    prefix = site.attention(1).kv_bytes(site.lengths.prefix)
    rate = site.fabric.scale_out_bytes_per_ms
    slots = math.ceil(moe.experts / 126)
    rows = [
        ["KV cache of one request at the end of its answer", f"{per_request / GB:.1f} GB"],
        ["requests that 2 attention GPUs hold beside their weights", f"{held}"],
        ["most tokens/s of 2A + 126F at TPOT 15 ms (Little)", f"{held / 0.015:,.0f}"],
        ["TPOT that 4,000 tokens/s would need", f"{held / CLAIM_TOK_S * 1e3:.1f} ms"],
        ["least TPOT of any AFD server of the model, nearly empty", f"{least:.1f} ms" if least is not None else "-"],
        ["experts per FFN GPU, 256 over 126", f"{moe.experts / 126:.2f}"],
        [
            "expert slots if every GPU has the same number",
            f"{slots * 126} ({slots * 126 / moe.experts - 1.0:.0%} redundant)",
        ],
        ["prefix over one 400 Gbit/s NIC", f"{prefix / rate:.0f} ms"],
        ["prefix striped over the 8 NICs of a node", f"{prefix / rate / 8:.0f} ms"],
    ]
    return table(["figure", "value"], rows, numbers=(1,))


# -- the page ---------------------------------------------------------------------------------------------------------


def blocks() -> dict[str, str]:
    """All tables by the name of their markers."""
    return {
        "verdicts": verdicts(),
        "strict": results(FULL_SPEED),
        "slower": results(SLOWER),
        "relaxed": relaxed(),
        "residency": residency(),
        "budget": budget(),
        "memory": memory(),
        "plausibility": plausibility(),
    }


def main() -> None:
    """Compute, print, and write the page where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="renew the tables of this page")
    page = parser.parse_args().write
    found = blocks()
    for name, text in found.items():
        print(f"{name}\n\n{text}\n")
    if page is not None:
        write_between(page, found)


if __name__ == "__main__":
    main()
