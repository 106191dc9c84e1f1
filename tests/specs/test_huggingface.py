"""Reading `config.json`: the catalogue's models again, other families, and malformed files."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs import catalog
from specs.counts import total_params
from specs.errors import SpecError
from specs.huggingface import MAX_LAYERS, SUPPORTED_ARCHITECTURES, from_config
from specs.model import (
    DenseFfn,
    FactoredAttention,
    LatentAttention,
    LinearAttention,
    ModelSpec,
    MoeFfn,
    Precision,
    SoftmaxAttention,
)

CONFIGS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "configs").glob("*.json")}
"""Excerpts of published config.json files: the facts that decide the architecture."""

ARCHITECTURE = {
    "hidden",
    "vocab",
    "tied_embeddings",
    "layers",
    "period",
    "max_context_tokens",
    "native_precision",
    "draft_params",
}


def test_there_is_a_config_for_every_model() -> None:
    assert set(CONFIGS) == {path.stem for path in (catalog.DATA / "models").glob("*.json")}


@pytest.mark.parametrize("stem", sorted(CONFIGS))
def test_config_reads_as_the_catalogue(stem: str) -> None:
    entry = ModelSpec.model_validate_json((catalog.DATA / "models" / f"{stem}.json").read_text())
    read = from_config(CONFIGS[stem], "config.json")
    assert read.model_dump(include=ARCHITECTURE) == entry.model_dump(include=ARCHITECTURE)
    assert read.id == read.source == "config.json"


def llama(**changes: Any) -> dict[str, Any]:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 8,
        "num_hidden_layers": 6,
        "vocab_size": 100,
        "max_position_embeddings": 512,
    }
    return {key: value for key, value in (config | changes).items() if value is not None}


def test_absent_keys_take_their_meaning() -> None:
    model = from_config(llama(), "config.json")
    assert model.layers[0].attention == SoftmaxAttention(heads=8, kv_heads=8, head_dim=8)
    assert not model.tied_embeddings
    assert model.native_precision is Precision.BF16
    assert model.period == 1


def test_window_of_mistral_and_of_qwen() -> None:
    mistral = from_config(llama(architectures=["MistralForCausalLM"], sliding_window=32), "config.json")
    assert [group.count for group in mistral.layers] == [6]
    assert isinstance(mistral.layers[0].attention, SoftmaxAttention)
    assert mistral.layers[0].attention.window_tokens == 32
    window = {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 32, "max_window_layers": 4}
    off = from_config(llama(**window, use_sliding_window=False), "config.json")
    on = from_config(llama(**window, use_sliding_window=True), "config.json")
    assert [group.count for group in off.layers] == [6]
    assert [group.count for group in on.layers] == [4, 2]


def test_gemma3_has_five_windows_to_one_full_layer() -> None:
    gemma = llama(architectures=["Gemma3ForCausalLM"], sliding_window=32, num_hidden_layers=14)
    model = from_config(gemma, "config.json")
    assert [group.count for group in model.layers] == [12, 2]
    assert model.period == 6
    assert model.tied_embeddings


def test_qwen3_next_without_layer_types() -> None:
    text = {key: value for key, value in CONFIGS["qwen3.5-397b-a17b"]["text_config"].items() if key != "layer_types"}
    model = from_config(text | {"architectures": ["Qwen3NextForCausalLM"], "decoder_sparse_step": 1}, "config.json")
    assert model.layers == catalog.model("qwen3.5-397b").layers
    assert model.period == 4


def test_hybrid_states() -> None:
    delta = catalog.model("qwen3.5-397b").layers[0].attention
    mamba = catalog.model("nemotron-3-super").layers[0].attention
    assert isinstance(delta, LinearAttention)
    assert isinstance(mamba, LinearAttention)
    # One 128 x 128 state per value head; a state of 128 per channel of 128 heads x 64. Convolutions keep 3 inputs.
    assert delta.state_elements == 64 * 128 * 128 + 3 * (16 * 128 * 2 + 64 * 128)
    assert mamba.state_elements == 128 * 64 * 128 + 3 * (128 * 64 + 2 * 8 * 128)


def test_layers_of_llama_4() -> None:
    chunked_dense, chunked_moe, full_moe = catalog.model("llama-4-maverick").layers
    for group, window in ((chunked_dense, 8192), (chunked_moe, 8192), (full_moe, None)):
        assert isinstance(group.attention, SoftmaxAttention)
        assert group.attention.window_tokens == window
    assert chunked_dense.ffn == DenseFfn(intermediate=16384)
    assert full_moe.ffn == MoeFfn(experts=128, experts_per_token=1, intermediate=8192, shared_intermediate=8192)


def test_groups_of_deepseek_and_of_kimi() -> None:
    for name, groups, chosen in (("deepseek-v3.2", 8, 4), ("kimi-k2", 1, 1)):
        moe = catalog.model(name).layers[1].ffn
        assert isinstance(moe, MoeFfn)
        assert (moe.groups, moe.groups_per_token) == (groups, chosen)


def test_glm_layers_that_share_indices() -> None:
    kinds = ["full"] * 3 + (["shared"] * 3 + ["full"]) * 18 + ["shared"] * 3
    model = from_config(CONFIGS["glm-5"] | {"indexer_types": kinds}, "config.json")
    assert [group.count for group in model.layers] == [3, 57, 18]
    shared, own = model.layers[1].attention, model.layers[2].attention
    assert isinstance(own, LatentAttention)
    assert isinstance(shared, LatentAttention)
    assert (own.index_heads, shared.index_heads, shared.index_topk) == (32, 0, 2048)
    # The checkpoint of GLM-5.2 holds 753.33 B with its draft module.
    assert (total_params(model) + model.draft_params) / 1e9 == pytest.approx(753.33, rel=1e-4)


def test_deepseek_v2_lite_has_no_query_latent() -> None:
    lite = CONFIGS["deepseek-v3"] | {
        "architectures": ["DeepseekV2ForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "q_lora_rank": None,
        "vocab_size": 102400,
        "num_nextn_predict_layers": None,
    }
    # The model card says 15.7 B.
    assert total_params(from_config(lite, "config.json")) / 1e9 == pytest.approx(15.7, abs=0.05)


def test_nemotron_layers_in_words() -> None:
    letters = CONFIGS["nemotron-3-super-120b"]
    words = {"M": "mamba", "*": "attention", "E": "moe"}
    spelt = {key: value for key, value in letters.items() if "pattern" not in key and key != "num_hidden_layers"}
    spelt["layers_block_type"] = [words[letter] for letter in letters["hybrid_override_pattern"]]
    spelt["mtp_layers_block_type"] = ["attention", "moe"]
    assert from_config(spelt, "x") == from_config(letters, "x")


def test_step3_attention() -> None:
    attention = catalog.model("step-3").layers[0].attention
    assert attention == FactoredAttention(heads=64, kv_heads=1, head_dim=256, q_lora_rank=2048)


@pytest.mark.parametrize(
    ("quantization", "precision"),
    [
        ({"quant_method": "fp8", "fmt": "e4m3"}, Precision.FP8),
        ({"quant_method": "mxfp4"}, Precision.FP4),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, Precision.FP4),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, Precision.FP8),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, Precision.INT4),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, Precision.FP8),
        ({"quant_method": "compressed-tensors", "format": "int-quantized"}, Precision.INT8),
    ],
)
def test_quantization(quantization: dict[str, str], precision: Precision) -> None:
    assert from_config(llama(quantization_config=quantization), "config.json").native_precision is precision


def refused(config: Any) -> SpecError:
    with pytest.raises(SpecError) as caught:
        from_config(config, "some/config.json")
    assert caught.value.file == "some/config.json"
    return caught.value


def test_unsupported_architecture_is_named_with_those_supported() -> None:
    error = refused(llama(architectures=["MambaForCausalLM"]))
    assert error.field == "architectures"
    assert "'MambaForCausalLM'" in error.message
    assert all(name in error.message for name in SUPPORTED_ARCHITECTURES)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"intermediate_size": 0}, "intermediate_size"),
        ({"intermediate_size": 1.5}, "intermediate_size"),
        ({"num_hidden_layers": MAX_LAYERS + 1}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_attention_heads": 7}, "num_attention_heads"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"architectures": []}, "architectures"),
        ({"text_config": [1]}, "text_config"),
        ({"text_config": {"hidden_size": -64}}, "text_config.intermediate_size"),
        ({"quantization_config": {"quant_method": "ternary"}}, "quantization_config.quant_method"),
        ({"sliding_window": "wide"}, "sliding_window"),
        ({"max_position_embeddings": None}, "max_position_embeddings"),
    ],
)
def test_malformed_key_is_named(changes: dict[str, Any], field: str) -> None:
    assert refused(llama() | changes).field == field


@pytest.mark.parametrize(
    ("stem", "changes", "field"),
    [
        ("deepseek-v3", {"num_experts_per_tok": 257}, "num_experts_per_tok"),
        ("deepseek-v3", {"first_k_dense_replace": 62}, "first_k_dense_replace"),
        ("deepseek-v3", {"n_group": 7}, "n_group"),
        ("deepseek-v3", {"topk_group": 9}, "topk_group"),
        ("deepseek-v3.2", {"index_n_heads": None}, "index_n_heads"),
        ("gpt-oss-120b", {"layer_types": ["full_attention"]}, "layer_types"),
        ("gpt-oss-120b", {"layer_types": ["half_attention"] * 36}, "layer_types"),
        ("qwen3-30b-a3b", {"mlp_only_layers": [48]}, "mlp_only_layers"),
        ("qwen3-30b-a3b", {"mlp_only_layers": [-1]}, "mlp_only_layers"),
        ("nemotron-3-super-120b", {"hybrid_override_pattern": "MEX"}, "hybrid_override_pattern"),
        ("nemotron-3-super-120b", {"num_hidden_layers": 87}, "num_hidden_layers"),
    ],
)
def test_malformed_key_of_a_family_is_named(stem: str, changes: dict[str, Any], field: str) -> None:
    assert refused(CONFIGS[stem] | changes).field == field


@pytest.mark.parametrize("config", [None, [], "x", 3])
def test_something_else_than_an_object(config: Any) -> None:
    assert "JSON object" in refused(config).message


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**9, 10**30, -(10**30)]),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-2, 70) | st.text(max_size=3) | st.floats() | st.lists(st.none(), max_size=1), max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def read_or_refuse(config: dict[str, Any]) -> ModelSpec | SpecError:
    try:
        return from_config(config, "config.json")
    except SpecError as error:
        return error


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_junk_in_any_key_is_read_or_refused_with_a_message(data: st.DataObject) -> None:
    config = dict(CONFIGS[data.draw(st.sampled_from(sorted(CONFIGS)))])
    inner = config.get("text_config")
    if inner is not None and data.draw(st.booleans()):
        target = config["text_config"] = dict(inner)
    else:
        target = config
    for key in data.draw(st.lists(st.sampled_from(sorted(target)), min_size=1, max_size=3)):
        if data.draw(st.booleans()):
            target.pop(key, None)
        else:
            target[key] = data.draw(JUNK)
    outcome = read_or_refuse(config)
    if isinstance(outcome, SpecError):
        assert outcome.file == "config.json"
        assert outcome.field is not None
    else:
        assert total_params(outcome) > 0
