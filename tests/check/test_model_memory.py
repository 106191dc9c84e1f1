"""Weights and cache of known models against published sizes and hand counts."""

import pytest

from planner.check.expected import experts_of
from planner.check.model_memory import Shards, cache_bytes, weight_bytes
from specs import catalog
from specs.counts import total_params
from specs.model import Precision
from specs.plan import Role

DEEPSEEK = catalog.model("deepseek-ai/DeepSeek-V3")
LLAMA = catalog.model("meta-llama/Llama-3.1-70B")


def test_one_gpu_holds_every_parameter() -> None:
    assert weight_bytes(LLAMA, Precision.BF16, Shards(), None) == pytest.approx(2.0 * total_params(LLAMA))
    # 671 billion parameters, one byte each but for embedding and head.
    assert weight_bytes(DEEPSEEK, Precision.FP8, Shards(), None) == pytest.approx(671e9, rel=0.01)


@pytest.mark.parametrize("shards", [Shards(tp=8, moe_tp=8), Shards(tp=8, ep=8), Shards(tp=4, dp=2, ep=8)])
def test_eight_gpus_hold_at_least_an_eighth(shards: Shards) -> None:
    whole = weight_bytes(DEEPSEEK, Precision.FP8, Shards(), None)
    each = weight_bytes(DEEPSEEK, Precision.FP8, shards, None, experts_of(DEEPSEEK))
    assert 0.999 * whole / 8 <= each <= 1.2 * whole / 8


def test_the_sides_of_a_unit_hold_the_model_together() -> None:
    both = weight_bytes(DEEPSEEK, Precision.FP8, Shards(), None)
    sides = [weight_bytes(DEEPSEEK, Precision.FP8, Shards(), role) for role in (Role.ATTENTION, Role.FFN)]
    assert sum(sides) == pytest.approx(both)


def test_redundant_experts_take_room() -> None:
    few, many = (weight_bytes(DEEPSEEK, Precision.FP8, Shards(dp=32, ep=32), None, slots) for slots in (256, 288))
    per_expert = 3 * 7168 * 2048 * 58
    assert many - few == pytest.approx(per_expert)


def test_cache_of_one_token() -> None:
    # Grouped queries: 2 x 8 heads x 128 x 80 layers, 2 bytes; latent attention: (512 + 64) x 61 layers.
    assert cache_bytes(LLAMA, 1, Precision.BF16, Shards()) == 2 * 8 * 128 * 80 * 2
    assert cache_bytes(LLAMA, 1, Precision.FP8, Shards(tp=8)) == 2 * 128 * 80
    assert cache_bytes(DEEPSEEK, 1, Precision.BF16, Shards(tp=8)) == 576 * 61 * 2
    assert cache_bytes(LLAMA, 10, Precision.BF16, Shards(pp=4)) == 10 * 2 * 8 * 128 * 20 * 2
