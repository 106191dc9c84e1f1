"""Markdown of the generated pages: tables, plans in short words, and text written between markers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from specs.plan import Plan, PoolPlan, Role
from specs.service import Mode

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"

MODE_WORDS = {
    Mode.AGGREGATED: "aggregated",
    Mode.PREFILL_DECODE: "P/D",
    Mode.AFD: "AFD",
    Mode.PREFILL_DECODE_AFD: "P/D + AFD",
}
ROLE_LETTERS = {Role.MIXED: "", Role.PREFILL: "P", Role.DECODE: "D", Role.ATTENTION: "A", Role.FFN: "F"}


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()) -> str:
    """A markdown table; the columns `numbers` are right-aligned."""
    right = set(numbers)
    rule = ["---:" if column in right else "---" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows)).replace("| --- |", "|---|")


def write_between(path: Path, blocks: dict[str, str]) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->` in a page, for every block.

    Raises:
        ValueError: the page lacks a pair of markers, or has one twice.
    """
    text = path.read_text(encoding="utf-8")
    for name, block in blocks.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{path} must have {begin} and {end} once each")
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{block}\n{end}{rest.split(end)[1]}"
    path.write_text(text, encoding="utf-8")


def pool_words(pool: PoolPlan) -> str:
    """One pool: replicas, role and parallel degrees."""
    degrees = {"tp": pool.tp, "dp": pool.dp, "ep": pool.ep, "moe_tp": pool.moe_tp, "pp": pool.pp}
    hidden = {Role.ATTENTION: {"dp", "ep", "moe_tp"}, Role.FFN: {"tp", "dp"}}.get(pool.role, set())
    text = " ".join(f"{name}{value}" for name, value in degrees.items() if value > 1 and name not in hidden)
    letter = f" {ROLE_LETTERS[pool.role]}" if ROLE_LETTERS[pool.role] else ""
    return f"{pool.replicas}{letter} x {pool.gpus_per_replica} GPU{f' ({text})' if text else ''}"


def plan_words(plan: Plan) -> str:
    """The deployments of a plan in short words, the pools of one AFD unit joined."""
    return "; ".join(
        f"{MODE_WORDS[deployment.mode]}: {' + '.join(pool_words(pool) for pool in deployment.pools)}"
        for service in plan.services
        for deployment in service.deployments
    )
