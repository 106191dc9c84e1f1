"""Communication: latency once per hop, and no byte that leaves a domain at scale-up speed."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from planner.costs.afd import AfdUnit
from planner.costs.exchange_laws import HOPS, LAWS, Phase
from planner.costs.fabric import REDUCE_SETUP_US, SCALE_OUT_EFFICIENCY, SCALE_UP_EFFICIENCY, Fabric
from planner.costs.layout import Layout
from planner.costs.routing import Collective, Copies
from planner.costs.worker import Worker, dispatch_bytes
from planner.space import Slowdown, Space
from specs.catalog import model as catalogue_model
from specs.model import MoeFfn, Precision
from specs.service import Mode
from tests.costs.sites import make_site
from tests.oracles.routing_monte_carlo import choose_slots, reached, uniform_choices
from tests.planner.scenarios import scenario, service

FABRIC = Fabric(8, 300e6, 40e6, 2.0, 5.0)
WIDTH = 7168


def test_every_collective_and_phase_has_a_law() -> None:
    assert set(LAWS) == set(Collective)
    for law in LAWS.values():
        assert set(law.setup_us) == set(law.floor_us) == set(Phase)
        assert 0 < law.scale_up_share < 1
        assert 0 < law.scale_out_share < 1


@pytest.mark.parametrize("kind", list(Collective))
@pytest.mark.parametrize("phase", list(Phase))
def test_an_exchange_is_setup_hops_issue_and_its_slower_link(kind: Collective, phase: Phase) -> None:
    law = LAWS[kind]
    up = 300e6 / SCALE_UP_EFFICIENCY * law.scale_up_share
    out = 40e6 / SCALE_OUT_EFFICIENCY * law.scale_out_share

    def time(copies: Copies, peers: int, tokens: float) -> float:
        return float(FABRIC.exchange(copies, 1000.0, peers=peers, collective=kind, phase=phase)(tokens))

    base = (law.setup_us[phase] + HOPS * 5.0 + 31 * law.issue_us) * 1e-3
    assert time(Copies(3.0, 2.0), 31, 0.0) == pytest.approx(base + law.floor_us[phase] * 1e-3)
    assert time(Copies(3.0, 2.0), 31, 1e5) == pytest.approx(base + 2.0 * 1000.0 * 1e5 / out)
    assert time(Copies(30.0, 2.0), 31, 1e5) == pytest.approx(base + max(30 * 1e8 / up, 2e8 / out))
    inside = (law.setup_us[phase] + HOPS * 2.0 + 7 * law.issue_us) * 1e-3
    assert time(Copies(3.0, 0.0), 7, 1e5) == pytest.approx(inside + 3e8 / up)
    assert time(Copies(3.0, 0.0), 0, 1e5) == 0.0


def test_unless_told_an_exchange_takes_the_best_kernels() -> None:
    for copies, best in (
        (Copies(3.0, 0.0), Collective.ONE_SIDED),
        (Copies(3.0, 2.0), Collective.DEEPEP_LOW_LATENCY),
    ):
        assert FABRIC.exchange(copies, 1000.0, peers=7)(1e4) == FABRIC.exchange(
            copies, 1000.0, peers=7, collective=best
        )(1e4)


def test_an_all_reduce_moves_its_message_twice_less_the_local_share() -> None:
    for ranks in (2, 4, 8):
        time = FABRIC.all_reduce(ranks, 100.0)
        assert time(0.0) == pytest.approx((REDUCE_SETUP_US + 2 * 2.0) * 1e-3)
        # Reduce-scatter, then all-gather: each rank receives a part of size 1/r from r - 1 others, twice.
        assert time(1e6) - time(0.0) == pytest.approx(2 * (ranks - 1) * (1e8 / ranks) / 300e6)
    assert not FABRIC.all_reduce(1, 100.0)(1e6)


def test_an_all_reduce_does_not_leave_its_domain() -> None:
    with pytest.raises(ValueError, match="do not fit a scale-up domain"):
        FABRIC.all_reduce(16, 100.0)


@pytest.mark.parametrize("slowdown", [1.3, 2.0])
def test_a_slow_network_slows_whatever_goes_over_it(slowdown: float) -> None:
    fast, slow = (make_site("h100", network_slowdown=factor, analytic=True) for factor in (1.0, slowdown))
    tokens = np.array([1.0, 64.0, 4096.0])
    for layout in (Layout(tp=8, moe_tp=8, pp=2), Layout(tp=2, moe_tp=2, pp=2)):
        stages = [Worker(site, layout).hop_ms(tokens) for site in (fast, slow)]
        assert stages[1] == pytest.approx(slowdown * stages[0])
    for inside in (True, False):
        units = [AfdUnit(site, site, 1, 4, 1, 256, inside) for site in (fast, slow)]
        crossings = [unit.crossing_ms(tokens, np.array(4.0), 7392.0) for unit in units]
        assert crossings[1] == pytest.approx(slowdown * crossings[0])
    question = scenario(service(modes=(Mode.PREFILL_DECODE,)))
    setups = [Space.of(question, slowdown=Slowdown(network=by)).services[0].transfer().setup_ms for by in (1, slowdown)]
    assert setups[1] == pytest.approx(slowdown * setups[0])


MODELS = [
    "deepseek-ai/DeepSeek-V3",
    "zai-org/GLM-5",
    "Qwen/Qwen3-235B-A22B",
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16",
]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(MODELS),
    gpu=st.sampled_from(["h100", "h800", "b200", "gb200-nvl72-186gb"]),
    nodes=st.sampled_from([1, 2, 4, 8, 9, 16]),
    tp=st.sampled_from([1, 2, 4]),
    moe_tp=st.sampled_from([1, 2]),
    low_latency=st.booleans(),
    tokens=st.integers(1, 4096),
)
def test_what_leaves_a_domain_moves_at_scale_out_speed(
    name: str, gpu: str, nodes: int, tp: int, moe_tp: int, low_latency: bool, tokens: int
) -> None:
    site = make_site(gpu, name, count=1152)
    domain, gpus = site.fabric.domain, nodes * 8 if gpu != "gb200-nvl72-186gb" else nodes * 36
    assume(gpus <= domain or gpus % domain == 0)
    ffn = site.moe
    assert ffn is not None
    ep = gpus // moe_tp
    worker = Worker(site, Layout(tp, gpus // tp, ep, moe_tp, 1, -(-ffn.experts // ep) * ep))
    group = next(i for i, layer in enumerate(site.model.layers) if layer.ffn == ffn)
    dispatch, combine = worker.exchange(group, low_latency=low_latency)
    # However a collective deduplicates, every remote domain that holds an expert of a token gets it once.
    entered = least_remote_domains(ffn, ep, moe_tp, domain, worker.layout.expert_slots)
    width = ffn.expert_hidden or site.model.hidden
    for time, size in ((dispatch, dispatch_bytes(width, Precision.FP8)), (combine, width * 2.0)):
        least = entered * tokens / tp * size / (site.pool.scale_out_gbit_per_s / 8.0 * 1e6)
        assert float(time(float(tokens))) >= least * 0.97  # Monte Carlo error of `entered`


def least_remote_domains(ffn: MoeFfn, ep: int, moe_tp: int, domain: int, slots: int) -> float:
    """Domains other than the sender's that hold an expert of a token, by routing random tokens."""
    rng, tokens = np.random.default_rng(3), 2000
    chosen = uniform_choices(rng, tokens, ffn.experts, ffn.experts_per_token, ffn.groups, ffn.groups_per_token)
    slot = choose_slots(rng, chosen, np.arange(slots) % ffn.experts)
    ranks_per_domain = max(1, domain // moe_tp)
    domains = max(1, ep // ranks_per_domain)
    hit = reached(slot // (slots // ep) // ranks_per_domain, domains)
    hit[np.arange(tokens), rng.integers(domains, size=tokens)] = False
    return float(hit.sum(axis=1).mean())


def test_group_limited_routing_visits_fewer_nodes() -> None:
    limited = catalogue_model("deepseek-ai/DeepSeek-V3")
    ffn = limited.layers[1].ffn
    assert isinstance(ffn, MoeFfn)
    worker = Worker(make_site("h800"), Layout(1, 64, 64, 1, 1, 256))
    free = ffn.model_copy(update={"groups": 1, "groups_per_token": 1})
    with_groups, without = (worker.copies(part, low_latency=False).scale_out for part in (ffn, free))
    assert with_groups <= 4.0 * (1 - 1 / 8)  # at most four of eight nodes, one in eight of them the sender's
    assert with_groups < 0.75 * without
    # The low-latency kernels send one copy per expert, whatever the groups.
    assert worker.copies(ffn, low_latency=True).scale_out == pytest.approx(8 * (1 - 1 / 8))


def test_slower_networks_are_slower() -> None:
    fast, slow = make_site(), make_site(network_slowdown=1.3)
    for low_latency in (True, False):
        one, two = (Worker(s, Layout(1, 32, 32, 1, 1, 256)).exchange(1, low_latency=low_latency) for s in (fast, slow))
        assert two[0](1e6) == pytest.approx(1.3 * one[0](1e6), rel=1e-3)
