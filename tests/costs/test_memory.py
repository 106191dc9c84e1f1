"""Reserved cache memory against requests at random points of their path."""

import math

import numpy as np
import pytest

from planner.costs.layout import Layout
from planner.costs.memory import Reservation, reserve
from planner.costs.site import Site
from planner.costs.worker import Worker
from tests.costs.sites import make_site

V3, QWEN, OSS = "deepseek-ai/DeepSeek-V3", "Qwen/Qwen3.5-397B-A17B", "openai/gpt-oss-120b"


def cache(site: Site, tokens: float, tp: int = 1) -> float:
    return site.attention(tp).kv_bytes(tokens)


@pytest.mark.parametrize("requests", [1, 3, 10, 100, 1000])
@pytest.mark.parametrize("model", [V3, "Qwen/Qwen3-235B-A22B"])
def test_reservation_holds_requests_at_random_phases(model: str, requests: int) -> None:
    site = make_site(model=model, tokens=(1000, 3000, 500))
    reserved = reserve(site, 1, 1, decode=True).bytes(requests)
    rng = np.random.default_rng(requests)
    context = 1500 + rng.uniform(0, 3000, size=(4000, requests))
    needed = cache(site, 1.0) * context.sum(axis=1)
    assert (needed <= reserved).mean() >= 0.995
    # It is three deviations above the mean and not the worst case, in which all requests end together.
    assert reserved <= cache(site, 4500) * requests * (1 + 1e-12)
    assert reserved <= needed.mean() + 3.05 * needed.std() + cache(site, 2.0) * requests


@pytest.mark.parametrize("requests", [20, 200])
def test_reservation_holds_requests_of_varying_length(requests: int) -> None:
    cv = 0.8
    site = make_site(tokens=({"mean": 1000, "cv": 0.5}, {"mean": 2000, "cv": cv}, 0))
    reserved = reserve(site, 1, 1, decode=True).bytes(requests)
    rng = np.random.default_rng(5)
    # Found in flight, a request has a length-biased output and is anywhere in it: gamma with one more in its shape.
    output = rng.gamma(1 / cv**2 + 1, 2000 * cv**2, size=(2000, requests))
    prompt = rng.gamma(4.0, 250.0, size=output.shape)
    needed = cache(site, 1.0) * (prompt + rng.random(output.shape) * output).sum(axis=1)
    assert needed.mean() == pytest.approx(reserve(site, 1, 1, decode=True).each_bytes * requests, rel=0.01)
    assert (needed <= reserved).mean() >= 0.99
    assert reserved <= needed.mean() + 3.2 * needed.std()


def test_a_prefix_shared_by_all_lies_once() -> None:
    alone = reserve(make_site(tokens=(100, 200, 50_000)), 1, 1, decode=True)
    site = make_site(tokens=(100, 200, 50_000), workload={"prefix_sharing": "all"})
    shared = reserve(site, 1, 1, decode=True)
    without = reserve(make_site(tokens=(100, 200, 0)), 1, 1, decode=True)
    for requests in (1, 7, 100):
        prefix = cache(site, 50_000)
        assert shared.bytes(requests) == pytest.approx(without.bytes(requests) + prefix, rel=1e-9)
        assert alone.bytes(requests) == pytest.approx(without.bytes(requests) + requests * prefix, rel=1e-9)


def test_a_prefix_shared_by_some_lies_once_for_each_group_begun() -> None:
    site = make_site(tokens=(100, 200, 50_000), workload={"prefix_sharing": 4})
    shared, without = reserve(site, 1, 1, decode=True), reserve(make_site(tokens=(100, 200, 0)), 1, 1, decode=True)
    for requests, copies in ((1, 1), (4, 1), (5, 2), (100, 25)):
        expected = without.bytes(requests) + copies * cache(site, 50_000)
        assert shared.bytes(requests) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("model", [QWEN, OSS])
def test_sharers_have_states_and_windows_of_their_own(model: str) -> None:
    shared = make_site(model=model, tokens=(300, 300, 20_000), workload={"prefix_sharing": "all"})
    without = make_site(model=model, tokens=(300, 300, 0))
    one, other = (reserve(site, 1, 1, decode=True) for site in (shared, without))
    assert one.each_bytes == pytest.approx(other.each_bytes, rel=1e-9)
    assert one.bytes(50) - one.bytes(49) > 0.9 * cache(without, 300)


def test_largest_is_the_last_that_fits() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        shared, each, growth = rng.uniform(0, 10), rng.uniform(0.01, 2), rng.uniform(0, 1)
        sharers = float(rng.choice([math.inf, 1.0, 3.0, 10.0]))
        reservation, free = Reservation(shared, each, growth, sharers), rng.uniform(0, 100)
        found = reservation.largest(free)
        fits = [n for n in range(1, found + 50) if reservation.bytes(n) <= free]
        assert found == max(fits, default=0)


def test_littles_law_bounds_throughput() -> None:
    """Agentic requests of 19.1 GB each: eight on a GPU of 180 GiB, so two of them give no 4,000 tokens/s at 15 ms."""
    site = make_site("b200", V3, tokens=(256, 8000, 524_288))
    assert cache(site, 533_000) == pytest.approx(61 * 576 * 533_000)
    weights = site.attention(1).weight_bytes()
    requests = reserve(site, 1, 1, decode=True).largest(site.memory_bytes - weights)
    assert requests * cache(site, site.lengths.mean_context) <= site.memory_bytes - weights
    assert 6 <= requests <= 8
    tokens_per_s_at_15_ms = 2 * requests / 15e-3
    assert tokens_per_s_at_15_ms < 1100


def test_weights_follow_the_parallel_degrees() -> None:
    site = make_site(model=V3)
    wide = Worker(site, Layout(1, 64, 64, 1, 1, 256)).weight_bytes
    narrow = Worker(site, Layout(1, 32, 32, 1, 1, 256)).weight_bytes
    routed = 58 * 256 * 3 * 7168 * 2048  # bytes in FP8
    assert narrow - wide == pytest.approx(routed / 32 - routed / 64)
    sharded = Worker(site, Layout(1, 32, 16, 2, 1, 256)).weight_bytes
    assert sharded == pytest.approx(narrow)
    redundant = Worker(site, Layout(1, 32, 32, 1, 1, 288)).weight_bytes
    assert redundant - narrow == pytest.approx(routed / 256)
    # All of the published 671 billion parameters, once, plus BF16 embeddings and head twice over their FP8 size.
    one = Worker(site, Layout(1, 1, 1, 1, 1, 256)).weight_bytes
    assert one == pytest.approx(671.0e9 + 2 * 7168 * 129_280, rel=0.005)
    eight = Worker(site, Layout(8, 1, 8, 1, 1, 256)).weight_bytes
    assert one / 8 < eight < one / 8 + 2.0e9  # projections into the latents are on every rank
    stages = Worker(site, Layout(8, 1, 8, 1, 2, 256)).weight_bytes
    assert eight / 2 < stages < 0.55 * eight


def test_the_draft_module_spreads_its_experts() -> None:
    speculative = {"draft_tokens": 1, "accept_length": 1.8}
    plain, drafting = make_site(model=V3), make_site(model=V3, speculative=speculative)
    extra = [
        Worker(drafting, layout).weight_bytes - Worker(plain, layout).weight_bytes
        for layout in (Layout(1, 1, 1, 1, 1, 256), Layout(1, 64, 64, 1, 1, 256))
    ]
    assert extra[0] == pytest.approx(11.6e9, rel=0.01)
    routed = 256 * 3 * 7168 * 2048
    assert extra[0] - extra[1] == pytest.approx(routed * 63 / 64)
