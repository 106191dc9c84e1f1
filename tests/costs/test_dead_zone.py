"""The FFN side's dead zone (arXiv 2602.09721): past TopK nodes, scale-out links starve the experts of tokens.

The closed form counts the experts' FLOPs at one rate, so that these are sites with analytic kernels.
"""

import numpy as np
import pytest

from planner.costs.afd import AfdUnit
from planner.costs.fabric import COLLECTIVE_SETUP_US, MESSAGE_ISSUE_US, SCALE_OUT_EFFICIENCY
from planner.costs.routing import distinct_domains
from planner.costs.worker import dispatch_bytes
from specs.model import MoeFfn, Precision
from tests.costs.sites import make_site

V3 = "deepseek-ai/DeepSeek-V3"
NODES = (1, 2, 4, 8, 16, 32)
TOP_K = 8
# (50 ms x 1.7 accepted tokens - 15 ms) over 61 layers and three micro-batches.
STAGE_MS = (50.0 * 1.7 - 15.0) / (61 * 3)
GBYTE_PER_S = {50: 400, 900: 7200}


def make_unit(nodes: int, gbit_per_s: float) -> AfdUnit:
    site = make_site("h800", V3, pool={"scale_out_gbit_per_s": gbit_per_s}, analytic=True)
    return AfdUnit(site, site, 1, nodes * 8, 1, 256, False)


def moe() -> MoeFfn:
    ffn = make_site(model=V3).moe
    assert ffn is not None
    return ffn


def fed_tokens(unit: AfdUnit) -> float:
    """Largest micro-batch, in tokens of all attention GPUs, that both A2F and the experts finish within a stage.

    As many attention GPUs as FFN GPUs, so that the links of neither side outnumber the other's.
    """
    gpus = float(unit.ffn_gpus)

    def fits(tokens: float) -> bool:
        out = unit.crossing_ms(np.array(tokens / gpus), np.array(gpus), dispatch_bytes(7168, Precision.FP8))
        return float(out) <= STAGE_MS and float(unit.experts.expert_time(1)(tokens)) <= STAGE_MS

    low, high = 0.0, 1e6
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def utilisation(nodes: int, gbyte_per_s: int) -> float:
    """FLOPs of the experts over the peak of the FFN GPUs in a stage."""
    unit = make_unit(nodes, GBYTE_PER_S[gbyte_per_s])
    flops = fed_tokens(unit) * TOP_K * 6.0 * 7168 * moe().intermediate
    return flops / (unit.ffn_gpus * 1979e12 * STAGE_MS * 1e-3)


def test_at_50_gbyte_per_s_nodes_beyond_top_k_only_lower_utilisation() -> None:
    found = {nodes: utilisation(nodes, 50) for nodes in NODES}
    # Rising: one node's 32 experts per GPU cannot even be read in a stage.
    assert found[1] < 0.02
    best = max(found, key=lambda nodes: found[nodes])
    assert best <= TOP_K
    rising = [found[nodes] for nodes in NODES if nodes <= best]
    falling = [found[nodes] for nodes in NODES if nodes >= best]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert found[32] < 0.75 * found[best]


def test_at_900_gbyte_per_s_there_is_no_dead_zone() -> None:
    found = {nodes: utilisation(nodes, 900) for nodes in NODES}
    # Flat once the experts can be read: what is left are fits and the hottest rank's extra load.
    assert min(found[nodes] for nodes in NODES[1:]) > 0.98 * max(found.values())
    for nodes in (16, 32):
        assert found[nodes] > 1.05 * utilisation(nodes, 50)


@pytest.mark.parametrize("nodes", [16, 32])
def test_in_the_dead_zone_the_bound_is_the_closed_form(nodes: int) -> None:
    """6 x expert width x bandwidth / (bytes per element x FLOP/s), times the copies that a node's experts share.

    The literature counts one copy per expert beyond TopK nodes (k / copies = 1, 31% for the H800 before efficiencies);
    routing to distinct nodes needs somewhat fewer, so that the dead zone is a fall towards that bound.
    """
    ffn = moe()
    copies = distinct_domains(256, TOP_K, nodes * 8, 8, groups=ffn.groups, groups_per_token=ffn.groups_per_token)
    bandwidth = 50e9 * SCALE_OUT_EFFICIENCY
    plain = 6.0 * ffn.intermediate * bandwidth / (1.03125 * 1979e12)
    floor_us = COLLECTIVE_SETUP_US + 5.0 + MESSAGE_ISSUE_US * nodes * 8
    share = 1.0 - floor_us * 1e-3 / STAGE_MS
    assert utilisation(nodes, 50) == pytest.approx(plain * TOP_K / copies * share, rel=1e-6)
    assert pytest.approx(0.31, abs=0.005) == 6.0 * 2048 * 50e9 / 1979e12
