"""Step-3's stage budget and payload (arXiv 2507.19427, StepMesh), from our crossing.

Reproduced exactly: the budget of a stage, 50 ms / 61 layers / 3 stages = 273.2 us; and the bytes that one FFN GPU
exchanges per layer and micro-batch in the published configuration (two attention nodes x 128 tokens per GPU, FP8 out
and BF16 back), hence the 161.2 Gb/s at which both directions, one after the other, fill the budget.

Not the same in our model: we add FP8 scales (3% of the way out); our links are full duplex, so that the way back alone
sets the rate (107.5 Gb/s); with expert parallelism over both FFN nodes, instead of shards on both, 1.77 of the two
nodes hold one of a token's three experts; and where every GPU of a node holds a shard, forwarding inside an H800 node
takes longer than its NICs, so that the tests of bytes give the nodes a fast NVLink.

Step-3's engine has attention kernels of its own, against which the analytic ones are held here (`test_kernels`); no
measured table holds them.
"""

import numpy as np
import pytest

from planner.costs.afd import AfdUnit
from planner.costs.worker import dispatch_bytes
from specs.model import Precision
from tests.costs.sites import make_site

STEP = "stepfun-ai/step3"
HIDDEN = 7168
TOKENS, ATTENTION_GPUS, FFN_GPUS = 128.0, 16.0, 16
BUDGET_US = 50e3 / 61 / 3


def make_unit(ep: int, **pool: float) -> AfdUnit:
    site = make_site("h800", STEP, tokens=(4096, 2, 0), pool=pool, analytic=True)
    return AfdUnit(site, site, 1, ep, FFN_GPUS // ep, 48, False)


def moved_bytes(unit: AfdUnit, bytes_per_copy: float) -> float:
    """What the crossing charges to the busiest link, in bytes."""
    replicas = np.array(ATTENTION_GPUS)
    times = [float(unit.crossing_ms(np.array(tokens), replicas, bytes_per_copy)) for tokens in (TOKENS, 0.0)]
    return (times[0] - times[1]) * unit.attention_site.fabric.scale_out_bytes_per_ms


def test_the_budget_of_a_stage() -> None:
    assert pytest.approx(273.2, abs=0.05) == BUDGET_US


def test_payload_and_rate_of_the_published_configuration() -> None:
    sharded = make_unit(1, scale_up_gbyte_per_s=2000.0)
    out, back = moved_bytes(sharded, HIDDEN * 1.0), moved_bytes(sharded, HIDDEN * 2.0)
    assert out + back == pytest.approx(2 * 128 * HIDDEN * (1 + 2))
    assert (out + back) * 8 / BUDGET_US * 1e-3 == pytest.approx(161.2, abs=0.05)
    # The two directions share the budget as 91 to 182 us.
    assert BUDGET_US * out / (out + back) == pytest.approx(91.1, abs=0.1)
    assert BUDGET_US * back / (out + back) == pytest.approx(182.1, abs=0.1)
    assert back * 8 / BUDGET_US * 1e-3 == pytest.approx(107.5, abs=0.1)


def test_what_our_model_charges_instead() -> None:
    sharded, spread = (make_unit(ep, scale_up_gbyte_per_s=2000.0) for ep in (1, 16))
    scales = moved_bytes(sharded, dispatch_bytes(HIDDEN, Precision.FP8)) / moved_bytes(sharded, HIDDEN)
    assert scales == pytest.approx(1.03125)
    hit = 1 - (24 * 23 * 22) / (48 * 47 * 46)  # chance that three experts do not all miss a node
    assert moved_bytes(spread, HIDDEN) / moved_bytes(sharded, HIDDEN) == pytest.approx(hit)
    forwarding = 14 * TOKENS * HIDDEN / make_unit(1).ffn_site.fabric.scale_up_bytes_per_ms
    nic = 2 * TOKENS * HIDDEN / make_unit(1).ffn_site.fabric.scale_out_bytes_per_ms
    assert forwarding > nic


def test_every_stage_keeps_the_budget() -> None:
    _, stages = make_unit(16).stage_ms(TOKENS, TOKENS, ATTENTION_GPUS)
    assert (stages * 1e3 <= BUDGET_US).all()
    assert stages[0] == stages.max()  # attention is the bottleneck, as in the report
    assert stages[1] + stages[3] <= BUDGET_US * 1e-3
