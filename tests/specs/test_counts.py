"""Parameter counts against published counts, checkpoints and tensors written out by name."""

from collections.abc import Mapping
from decimal import Decimal
from math import prod

import pytest

from specs import catalog
from specs.counts import (
    active_ffn_params,
    active_params,
    attention_params,
    embedding_params,
    expert_params,
    ffn_params,
    indexer_params,
    latent_projection_params,
    router_params,
    shared_expert_params,
    total_params,
)
from specs.model import (
    DenseFfn,
    FactoredAttention,
    LatentAttention,
    LayerGroup,
    LinearAttention,
    ModelSpec,
    MoeFfn,
    SoftmaxAttention,
)


def half_last_digit(published_billion: float) -> float:
    """Half a unit of the last digit of a figure in billions, written without trailing zeros after the point."""
    exponent = Decimal(f"{published_billion:.10g}").as_tuple().exponent
    assert isinstance(exponent, int)
    return 0.5 * 10.0**exponent


@pytest.mark.parametrize(("figure", "half_unit"), [(671.0, 0.5), (36.6, 0.05), (116.83, 0.005), (1040.0, 0.5)])
def test_half_a_unit_of_the_last_digit(figure: float, half_unit: float) -> None:
    assert half_last_digit(figure) == pytest.approx(half_unit)


def test_every_model_counts_as_published() -> None:
    failures = []
    for name in catalog.model_ids():
        model = catalog.model(name)
        for what, recount, published in (
            ("total", total_params(model) / 1e9, model.published_total_params_billion),
            ("active", active_params(model) / 1e9, model.published_active_params_billion),
        ):
            assert published is not None, f"{name} has no published {what} count"
            if abs(recount - published) > max(0.02 * published, half_last_digit(published)):
                failures.append(f"{name}: {what} {recount:.3f} B, published {published:g} B")
    assert not failures, "\n".join(failures)


# Parameters that the checkpoints hold (Hugging Face safetensors metadata). They hold the norms too: two per layer and a
# last one, each as wide as the model, and in Qwen3 one per head width for queries and one for keys.
CHECKPOINTS = {
    "meta-llama/Llama-3.1-8B": (8_030_261_248, 0),
    "meta-llama/Llama-3.1-70B": (70_553_706_496, 0),
    "mistralai/Mixtral-8x7B-v0.1": (46_702_792_704, 0),
    "Qwen/Qwen3-32B": (32_762_123_264, 128),
    "Qwen/Qwen3-30B-A3B": (30_532_122_624, 128),
    "Qwen/Qwen3-235B-A22B": (235_093_634_560, 128),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_total_and_norms_are_the_checkpoint(name: str) -> None:
    checkpoint, head_norm = CHECKPOINTS[name]
    model = catalog.model(name)
    norms = (2 * model.layer_count + 1) * model.hidden + 2 * model.layer_count * head_norm
    assert total_params(model) + norms == checkpoint


def test_draft_module_counts_as_published() -> None:
    # DeepSeek-V3 README_WEIGHTS.md: 11.5 B unique parameters; GLM-5 checkpoint: 9.953 B.
    assert catalog.model("deepseek-v3").draft_params / 1e9 == pytest.approx(11.5, rel=0.02)
    assert catalog.model("glm-5").draft_params / 1e9 == pytest.approx(9.953, rel=1e-3)


# Weight tensors of one layer by name and shape, as the published checkpoints hold them (norms left out).
DEEPSEEK_V32_ATTENTION = {
    "q_a_proj": (1536, 7168),
    "q_b_proj": (128 * 192, 1536),
    "kv_a_proj_with_mqa": (512 + 64, 7168),
    "kv_b_proj": (128 * (128 + 128), 512),
    "o_proj": (7168, 128 * 128),
}
DEEPSEEK_V32_INDEXER = {"wq_b": (64 * 128, 1536), "wk": (128, 7168), "weights_proj": (64, 7168)}
QWEN35_ATTENTION = {
    "q_proj": (2 * 32 * 256, 4096),
    "k_proj": (2 * 256, 4096),
    "v_proj": (2 * 256, 4096),
    "o_proj": (4096, 32 * 256),
}
QWEN35_DELTA_NET = {
    "in_proj_qkv": (16 * 128 + 16 * 128 + 64 * 128, 4096),
    "in_proj_z": (64 * 128, 4096),
    "in_proj_b": (64, 4096),
    "in_proj_a": (64, 4096),
    "conv1d": (16 * 128 + 16 * 128 + 64 * 128, 1, 4),
    "out_proj": (4096, 64 * 128),
}
NEMOTRON_MAMBA = {
    "in_proj": (8192 + (8192 + 2 * 8 * 128) + 128, 4096),
    "conv1d": (8192 + 2 * 8 * 128, 1, 4),
    "out_proj": (4096, 8192),
}
STEP3_ATTENTION = {
    "q_proj": (2048, 7168),
    "k_proj": (256, 7168),
    "v_proj": (256, 7168),
    "wq": (64 * 256, 2048),
    "o_proj": (7168, 64 * 256),
}


def elements(tensors: Mapping[str, tuple[int, ...]]) -> int:
    return sum(prod(shape) for shape in tensors.values())


@pytest.mark.parametrize(
    ("name", "group", "tensors"),
    [
        ("deepseek-v3", 0, DEEPSEEK_V32_ATTENTION),
        ("deepseek-v3.2", 0, DEEPSEEK_V32_ATTENTION | DEEPSEEK_V32_INDEXER),
        ("qwen3.5-397b", 0, QWEN35_DELTA_NET),
        ("qwen3.5-397b", 1, QWEN35_ATTENTION),
        ("nemotron-3-super", 0, NEMOTRON_MAMBA),
        ("step-3", 0, STEP3_ATTENTION),
    ],
)
def test_attention_counts_the_tensors(name: str, group: int, tensors: Mapping[str, tuple[int, ...]]) -> None:
    model = catalog.model(name)
    attention = model.layers[group].attention
    assert attention is not None
    assert attention_params(attention, model.hidden) == elements(tensors)


def test_indexer_is_part_of_attention() -> None:
    attention = catalog.model("deepseek-v3.2").layers[0].attention
    assert isinstance(attention, LatentAttention)
    assert indexer_params(attention, 7168) == elements(DEEPSEEK_V32_INDEXER)
    dense = catalog.model("deepseek-v3").layers[0].attention
    assert isinstance(dense, LatentAttention)
    assert indexer_params(dense, 7168) == 0


def test_attention_without_query_latent() -> None:
    attention = LatentAttention(heads=2, kv_lora_rank=3, qk_nope_head_dim=5, qk_rope_head_dim=7, v_head_dim=11)
    tensors = {"q": (2 * (5 + 7), 13), "kv_a": (3 + 7, 13), "kv_b": (2 * (5 + 11), 3), "o": (13, 2 * 11)}
    assert attention_params(attention, 13) == elements(tensors)


def test_factored_attention() -> None:
    attention = FactoredAttention(heads=3, kv_heads=2, head_dim=5, q_lora_rank=7)
    tensors = {"q": (7, 11), "k": (10, 11), "v": (10, 11), "wq": (15, 7), "o": (11, 15)}
    assert attention_params(attention, 11) == elements(tensors)


def test_parts_of_a_latent_mixture_of_experts() -> None:
    ffn = MoeFfn(experts=5, experts_per_token=2, intermediate=7, gated=False, shared_intermediate=11, expert_hidden=3)
    hidden = 13
    assert expert_params(ffn, hidden) == 2 * 3 * 7
    assert shared_expert_params(ffn, hidden) == 2 * 13 * 11
    assert router_params(ffn, hidden) == 13 * 5
    assert latent_projection_params(ffn, hidden) == 2 * 13 * 3
    always = 2 * 13 * 11 + 13 * 5 + 2 * 13 * 3
    assert ffn_params(ffn, hidden) == 5 * 42 + always
    assert active_ffn_params(ffn, hidden) == 2 * 42 + always


def test_dense_ffn() -> None:
    assert ffn_params(DenseFfn(intermediate=7), 5) == 3 * 5 * 7
    assert ffn_params(DenseFfn(intermediate=7, gated=False), 5) == 2 * 5 * 7
    assert active_ffn_params(DenseFfn(intermediate=7), 5) == 3 * 5 * 7


def small_model(**changes: object) -> ModelSpec:
    fields: dict[str, object] = {
        "id": "small",
        "hidden": 8,
        "vocab": 100,
        "layers": (
            LayerGroup(count=2, attention=SoftmaxAttention(heads=2, kv_heads=1, head_dim=4)),
            LayerGroup(count=3, ffn=MoeFfn(experts=4, experts_per_token=1, intermediate=6)),
            LayerGroup(
                count=1,
                attention=LinearAttention(projection_params=50, state_elements=9, flops_per_token=9),
                ffn=DenseFfn(intermediate=6),
            ),
        ),
        "max_context_tokens": 10,
        "source": "test",
    }
    return ModelSpec.model_validate(fields | changes)


def test_embeddings_in_the_activated_count() -> None:
    attention = 2 * (8 * 8 + 2 * 8 * 4 + 8 * 8)
    expert, router, dense = 3 * 8 * 6, 8 * 4, 3 * 8 * 6
    layers = attention + 3 * (expert + router) + 50 + dense
    for counts, embeddings in (("all", 1600), ("no_input_embedding", 800), ("no_embedding", 0)):
        assert active_params(small_model(published_active_counts=counts)) == layers + embeddings
    assert total_params(small_model()) == layers + 3 * 3 * expert + 1600


def test_tied_embeddings_count_once() -> None:
    tied = small_model(tied_embeddings=True)
    assert embedding_params(tied) == 800
    assert total_params(small_model()) - total_params(tied) == 800
    # The one matrix is the head as well, so leaving out the input embedding leaves it in.
    head = small_model(tied_embeddings=True, published_active_counts="no_input_embedding")
    assert active_params(head) == active_params(tied)
