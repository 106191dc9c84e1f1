"""Reads the architecture of a model from its Hugging Face `config.json`.

Vision towers are left out: of a multimodal model only the language part (`text_config`) is read. Norms and biases do
not appear in the architecture. Multi-token-prediction modules are counted in `draft_params`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from specs.counts import attention_params, ffn_params
from specs.errors import SpecError
from specs.model import (
    Attention,
    DenseFfn,
    FactoredAttention,
    Ffn,
    LatentAttention,
    LayerGroup,
    LinearAttention,
    ModelSpec,
    MoeFfn,
    Precision,
    SoftmaxAttention,
)

Layer = tuple[Attention | None, Ffn | None]

# Operations per element of the recurrent state and token. Mamba-2: decay, input product, sum, and a product and a sum
# to read it out. Gated delta net: decay, two for the prediction, two for the rank-one update, two to read it out.
MAMBA2_FLOPS_PER_STATE_ELEMENT = 5
DELTA_NET_FLOPS_PER_STATE_ELEMENT = 7

MAX_LAYERS = 4096


@dataclass(frozen=True)
class Config:
    """Typed access to the keys of one `config.json`.

    Every accessor raises `SpecError` naming the file and the key where the key is missing or of another type.
    """

    values: Mapping[str, Any]
    source: str
    path: str = ""

    def error(self, key: str, message: str) -> SpecError:
        """Make the error to raise about `key`."""
        return SpecError(message, field=f"{self.path}{key}", file=self.source)

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None, minimum: int = 1) -> int:
        """Read an integer of at least `minimum`; `default` where the key is missing or null."""
        value = self.values.get(key)
        if value is None:
            if default is None:
                raise self.error(key, f"missing; an integer of at least {minimum} is needed")
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, f"must be an integer of at least {minimum}, not {value!r}")
        if value < minimum:
            raise self.error(key, f"must be at least {minimum}, not {value}")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        """Read a boolean; `default` where the key is missing or null."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {value!r}")
        return value

    def text(self, key: str) -> str:
        """Read a string."""
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.error(
                key, "missing; a string is needed" if value is None else f"must be a string, not {value!r}"
            )
        return value

    def sequence(self, key: str, length: int, kinds: tuple[str, ...]) -> list[str]:
        """Read a list of `length` strings, each one of `kinds`."""
        value = self.values.get(key)
        if not isinstance(value, list) or len(value) < length or any(item not in kinds for item in value):
            raise self.error(key, f"must be a list of at least {length} of: {', '.join(kinds)}")
        return value[:length]

    def layer_numbers(self, key: str, layers: int) -> frozenset[int]:
        """Read numbers of layers, a list or a string with commas; empty where the key is missing or null."""
        value = self.values.get(key)
        if value is None:
            return frozenset()
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list) or not all(str(item).strip().isdecimal() for item in items):
            raise self.error(key, f"must be a list of layer numbers, not {value!r}")
        numbers = frozenset(int(item) for item in items)
        if any(number >= layers for number in numbers):
            raise self.error(key, f"must hold layer numbers below {layers}, not {max(numbers)}")
        return numbers

    def section(self, key: str) -> "Config":
        """Read an object inside this one."""
        value = self.values.get(key)
        if not isinstance(value, Mapping):
            raise self.error(key, "missing; an object is needed" if value is None else "must be an object")
        return Config(value, self.source, f"{self.path}{key}.")


def _heads(config: Config) -> tuple[int, int, int]:
    """Query heads, KV heads and head width of softmax attention."""
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise config.error("num_key_value_heads", f"must divide num_attention_heads ({heads}), not {kv_heads}")
    hidden = config.integer("hidden_size")
    if not config.has("head_dim") and hidden % heads:
        raise config.error("num_attention_heads", f"must divide hidden_size ({hidden}) where head_dim is absent")
    return heads, kv_heads, config.integer("head_dim", default=max(1, hidden // heads))


def _softmax(config: Config, window: int | None = None, output_gate: bool = False) -> SoftmaxAttention:
    heads, kv_heads, head_dim = _heads(config)
    return SoftmaxAttention(
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, window_tokens=window, output_gate=output_gate
    )


def _latent(config: Config, indexer: bool) -> LatentAttention:
    """MLA; with `indexer` the layer has its own indexer, without it a layer of a sparse model reuses indices."""
    sparse = config.has("index_topk")
    return LatentAttention(
        heads=config.integer("num_attention_heads"),
        q_lora_rank=config.integer("q_lora_rank") if config.has("q_lora_rank") else None,
        kv_lora_rank=config.integer("kv_lora_rank"),
        qk_nope_head_dim=config.integer("qk_nope_head_dim"),
        qk_rope_head_dim=config.integer("qk_rope_head_dim"),
        v_head_dim=config.integer("v_head_dim"),
        index_heads=config.integer("index_n_heads") if sparse and indexer else 0,
        index_head_dim=config.integer("index_head_dim") if sparse and indexer else 0,
        index_topk=config.integer("index_topk") if sparse else 0,
    )


def _dense(config: Config) -> DenseFfn:
    return DenseFfn(intermediate=config.integer("intermediate_size"))


def _per_token(config: Config, key: str, experts: int) -> int:
    """Experts per token, checked against the number of experts."""
    per_token = config.integer(key)
    if per_token > experts:
        raise config.error(key, f"must be at most the number of experts ({experts}), not {per_token}")
    return per_token


def _deepseek_moe(config: Config) -> MoeFfn:
    """Experts in the key names of DeepSeek, Kimi, GLM and Nemotron-H."""
    experts = config.integer("n_routed_experts")
    groups = config.integer("n_group", default=1)
    chosen = config.integer("topk_group", default=groups)
    if experts % groups:
        raise config.error("n_group", f"must divide n_routed_experts ({experts}), not {groups}")
    if chosen > groups:
        raise config.error("topk_group", f"must be at most n_group ({groups}), not {chosen}")
    intermediate = config.integer("moe_intermediate_size")
    return MoeFfn(
        experts=experts,
        experts_per_token=_per_token(config, "num_experts_per_tok", experts),
        intermediate=intermediate,
        shared_intermediate=config.integer("n_shared_experts", default=0, minimum=0) * intermediate,
        groups=groups,
        groups_per_token=chosen,
    )


def _qwen_moe(config: Config) -> MoeFfn:
    experts = config.integer("num_experts")
    return MoeFfn(
        experts=experts,
        experts_per_token=_per_token(config, "num_experts_per_tok", experts),
        intermediate=config.integer("moe_intermediate_size"),
        shared_intermediate=config.integer("shared_expert_intermediate_size", default=0, minimum=0),
    )


def _local_moe(config: Config, shared: int = 0) -> MoeFfn:
    """Experts in the key names of Mixtral, MiniMax, gpt-oss and Llama 4."""
    experts = config.integer("num_local_experts")
    return MoeFfn(
        experts=experts,
        experts_per_token=_per_token(config, "num_experts_per_tok", experts),
        intermediate=config.integer("intermediate_size"),
        shared_intermediate=shared,
    )


def _layer_count(config: Config) -> int:
    """Read the number of layers; a bound keeps a slip of the pen from filling the memory."""
    layers = config.integer("num_hidden_layers")
    if layers > MAX_LAYERS:
        raise config.error("num_hidden_layers", f"must be at most {MAX_LAYERS}, not {layers}")
    return layers


def _windowed(config: Config) -> list[SoftmaxAttention]:
    """Attention of every layer where one sliding window serves all layers, or those from `max_window_layers` on.

    Qwen switches the window with `use_sliding_window` and starts it at `max_window_layers`; Mistral has neither key.
    """
    layers = _layer_count(config)
    if not config.has("sliding_window") or not config.boolean("use_sliding_window", default=True):
        return [_softmax(config)] * layers
    first = config.integer("max_window_layers", default=0, minimum=0)
    full, sliding = _softmax(config), _softmax(config, config.integer("sliding_window"))
    return [full if layer < first else sliding for layer in range(layers)]


def _dense_layers(config: Config) -> list[Layer]:
    """Llama, Mistral, Qwen2, Qwen3, GLM-4: softmax attention and a gated FFN in every layer."""
    ffn = _dense(config)
    return [(attention, ffn) for attention in _windowed(config)]


def _sliding_layers(config: Config, ffn: Ffn) -> list[Layer]:
    """Layers of one FFN whose attention is full or over a sliding window, as `layer_types` says."""
    kinds = config.sequence("layer_types", _layer_count(config), ("sliding_attention", "full_attention"))
    full = _softmax(config)
    sliding = _softmax(config, config.integer("sliding_window"))
    return [(full if kind == "full_attention" else sliding, ffn) for kind in kinds]


def _gemma3_layers(config: Config) -> list[Layer]:
    """Gemma 3: five layers over a sliding window, then a full one, unless `layer_types` says otherwise."""
    if config.has("layer_types"):
        return _sliding_layers(config, _dense(config))
    pattern = config.integer("sliding_window_pattern", default=6)
    full, sliding = _softmax(config), _softmax(config, config.integer("sliding_window"))
    ffn = _dense(config)
    return [(sliding if (layer + 1) % pattern else full, ffn) for layer in range(_layer_count(config))]


def _gpt_oss_layers(config: Config) -> list[Layer]:
    return _sliding_layers(config, _local_moe(config))


def _local_moe_layers(config: Config) -> list[Layer]:
    """Mixtral and MiniMax-M2: alike layers of softmax attention and experts."""
    shared = config.integer("shared_intermediate_size", default=0, minimum=0)
    moe = _local_moe(config, shared)
    return [(attention, moe) for attention in _windowed(config)]


def _qwen_ffns(config: Config) -> list[Ffn]:
    """List the FFN of every layer of a Qwen model: experts every `decoder_sparse_step` layers, dense elsewhere."""
    layers = _layer_count(config)
    if not config.has("num_experts"):
        return [_dense(config)] * layers
    step = config.integer("decoder_sparse_step", default=1)
    dense = config.layer_numbers("mlp_only_layers", layers)
    moe = _qwen_moe(config)
    return [moe if layer not in dense and (layer + 1) % step == 0 else _dense(config) for layer in range(layers)]


def _qwen_moe_layers(config: Config) -> list[Layer]:
    return list(zip(_windowed(config), _qwen_ffns(config), strict=True))


def _delta_net(config: Config) -> LinearAttention:
    """Gated delta net. Source: transformers, `modeling_qwen3_next.py`, class `Qwen3NextGatedDeltaNet`."""
    hidden = config.integer("hidden_size")
    key_dim, value_dim = config.integer("linear_key_head_dim"), config.integer("linear_value_head_dim")
    value_heads = config.integer("linear_num_value_heads")
    key_width = config.integer("linear_num_key_heads") * key_dim
    value_width = value_heads * value_dim
    kernel = config.integer("linear_conv_kernel_dim")
    channels = 2 * key_width + value_width
    inputs = channels + value_width + 2 * value_heads  # queries, keys, values; output gate; decay and write strength
    state = value_heads * key_dim * value_dim
    return LinearAttention(
        projection_params=hidden * inputs + channels * kernel + value_width * hidden,
        state_elements=state + channels * (kernel - 1),
        flops_per_token=DELTA_NET_FLOPS_PER_STATE_ELEMENT * state + 2 * kernel * channels,
    )


def _qwen_hybrid_layers(config: Config) -> list[Layer]:
    """Qwen3-Next and Qwen3.5: gated delta net, with gated full attention every `full_attention_interval` layers."""
    layers = _layer_count(config)
    if config.has("layer_types"):
        kinds = config.sequence("layer_types", layers, ("linear_attention", "full_attention"))
    else:
        interval = config.integer("full_attention_interval", default=4)
        kinds = ["linear_attention" if (layer + 1) % interval else "full_attention" for layer in range(layers)]
    full = _softmax(config, output_gate=config.boolean("attn_output_gate", default=True))
    linear = _delta_net(config)
    return [
        (full if kind == "full_attention" else linear, ffn) for kind, ffn in zip(kinds, _qwen_ffns(config), strict=True)
    ]


def _deepseek_layers(config: Config, attention: list[Attention]) -> list[Layer]:
    """Pair attention with an FFN: dense in the first `first_k_dense_replace`, then experts every `moe_layer_freq`."""
    layers = len(attention)
    first = config.integer("first_k_dense_replace", default=0, minimum=0)
    if first > layers:
        raise config.error("first_k_dense_replace", f"must be at most num_hidden_layers ({layers}), not {first}")
    step = config.integer("moe_layer_freq", default=1)
    moe = _deepseek_moe(config)
    return [
        (part, moe if layer >= first and layer % step == 0 else _dense(config)) for layer, part in enumerate(attention)
    ]


def _latent_layers(config: Config) -> list[Layer]:
    """DeepSeek-V2, V3, V3.2, Kimi-K2 and GLM-5; `indexer_types` marks layers that reuse another layer's indices."""
    layers = _layer_count(config)
    kinds = ["full"] * layers
    if config.has("indexer_types"):
        kinds = config.sequence("indexer_types", layers, ("full", "shared"))
    own, reused = _latent(config, indexer=True), _latent(config, indexer=False)
    return _deepseek_layers(config, [own if kind == "full" else reused for kind in kinds])


def _glm_moe_layers(config: Config) -> list[Layer]:
    return _deepseek_layers(config, [_softmax(config)] * _layer_count(config))


def _llama4_layers(config: Config) -> list[Layer]:
    """Llama 4: experts every `interleave_moe_layer_step` layers, full attention every fourth, else chunks.

    A token of a chunk of c tokens sees between 1 and c of them; the window is c, the upper end.
    Source: transformers, `configuration_llama4.py` (`no_rope_layers`, `no_rope_layer_interval` = 4).
    """
    step = config.integer("interleave_moe_layer_step", default=1)
    interval = config.integer("no_rope_layer_interval", default=4)
    full, chunked = _softmax(config), _softmax(config, config.integer("attention_chunk_size", default=8192))
    dense = DenseFfn(intermediate=config.integer("intermediate_size_mlp"))
    moe = _local_moe(config, shared=config.integer("intermediate_size"))
    return [
        (chunked if (layer + 1) % interval else full, dense if (layer + 1) % step else moe)
        for layer in range(_layer_count(config))
    ]


def _mamba2(config: Config) -> LinearAttention:
    """Mamba-2. Source: transformers, `modeling_nemotron_h.py`, class `NemotronHMamba2Mixer`."""
    hidden = config.integer("hidden_size")
    heads, state_size = config.integer("mamba_num_heads"), config.integer("ssm_state_size")
    width = heads * config.integer("mamba_head_dim")
    kernel = config.integer("conv_kernel")
    channels = width + 2 * config.integer("n_groups") * state_size
    state = width * state_size
    return LinearAttention(
        projection_params=hidden * (width + channels + heads) + channels * kernel + width * hidden,
        state_elements=state + channels * (kernel - 1),
        flops_per_token=MAMBA2_FLOPS_PER_STATE_ELEMENT * state + 2 * kernel * channels,
    )


def _nemotron_moe(config: Config) -> MoeFfn:
    """Experts of two matrices (squared ReLU), in a latent width where `moe_latent_size` is given."""
    shared = config.integer("n_shared_experts", default=0, minimum=0)
    if shared:
        shared *= config.integer("moe_shared_expert_intermediate_size")
    return _deepseek_moe(config).model_copy(
        update={
            "gated": False,
            "shared_intermediate": shared,
            "expert_hidden": config.integer("moe_latent_size") if config.has("moe_latent_size") else None,
        }
    )


_NEMOTRON_WORDS = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}


def _nemotron_parts(config: Config, prefix: str) -> list[Layer]:
    """Read the layers that a pattern of letters spells, or a list of words in newer files.

    Args:
        config: the file.
        prefix: what stands before the keys' common part: empty for the model, `mtp_` for its draft module.

    """
    makers: dict[str, Callable[[], Layer]] = {
        "mamba": lambda: (_mamba2(config), None),
        "attention": lambda: (_softmax(config), None),
        "moe": lambda: (None, _nemotron_moe(config)),
        "mlp": lambda: (None, DenseFfn(intermediate=config.integer("intermediate_size"), gated=False)),
    }
    key, letters = f"{prefix}layers_block_type", f"{prefix}hybrid_override_pattern"
    if config.has(key):
        words = config.values[key]
        if not isinstance(words, list) or not words or any(word not in tuple(makers) for word in words):
            raise config.error(key, f"must be a list of: {', '.join(makers)}")
    else:
        pattern = config.text(letters)
        if not pattern or set(pattern) - set(_NEMOTRON_WORDS):
            raise config.error(letters, f"must be a string of {' '.join(_NEMOTRON_WORDS)}, not {pattern!r}")
        words = [_NEMOTRON_WORDS[letter] for letter in pattern]
    made = {word: makers[word]() for word in sorted(set(words))}
    return [made[word] for word in words]


def _nemotron_layers(config: Config) -> list[Layer]:
    layers = _nemotron_parts(config, "")
    if config.has("num_hidden_layers") and len(layers) != _layer_count(config):
        raise config.error("num_hidden_layers", f"must be {len(layers)}, the number of layers that the file spells")
    return layers


def _step3_layers(config: Config) -> list[Layer]:
    """Step-3. Source: vLLM, `model_executor/models/step3_text.py`."""
    layers = _layer_count(config)
    attention = FactoredAttention(
        heads=config.integer("num_attention_heads"),
        kv_heads=1,
        head_dim=config.integer("head_dim"),
        q_lora_rank=config.integer("share_q_dim"),
    )
    experts = config.integer("moe_num_experts")
    moe = MoeFfn(
        experts=experts,
        experts_per_token=_per_token(config, "moe_top_k", experts),
        intermediate=config.integer("moe_intermediate_size"),
        shared_intermediate=config.integer("share_expert_dim", default=0, minimum=0),
    )
    dense = _dense(config)
    spelt = config.has("moe_layers_enum")
    sparse = config.layer_numbers("moe_layers_enum", layers) if spelt else frozenset(range(1, layers))
    return [(attention, moe if layer in sparse else dense) for layer in range(layers)]


_READERS: dict[str, Callable[[Config], list[Layer]]] = {
    "LlamaForCausalLM": _dense_layers,
    "MistralForCausalLM": _dense_layers,
    "Mistral3ForConditionalGeneration": _dense_layers,
    "Qwen2ForCausalLM": _dense_layers,
    "Qwen3ForCausalLM": _dense_layers,
    "Qwen3VLForConditionalGeneration": _dense_layers,
    "GlmForCausalLM": _dense_layers,
    "Glm4ForCausalLM": _dense_layers,
    "Gemma3ForCausalLM": _gemma3_layers,
    "Gemma3ForConditionalGeneration": _gemma3_layers,
    "MixtralForCausalLM": _local_moe_layers,
    "MiniMaxM2ForCausalLM": _local_moe_layers,
    "Qwen2MoeForCausalLM": _qwen_moe_layers,
    "Qwen3MoeForCausalLM": _qwen_moe_layers,
    "Qwen3VLMoeForConditionalGeneration": _qwen_moe_layers,
    "Qwen3NextForCausalLM": _qwen_hybrid_layers,
    "Qwen3_5ForConditionalGeneration": _qwen_hybrid_layers,
    "Qwen3_5MoeForConditionalGeneration": _qwen_hybrid_layers,
    "DeepseekV2ForCausalLM": _latent_layers,
    "DeepseekV3ForCausalLM": _latent_layers,
    "DeepseekV32ForCausalLM": _latent_layers,
    "KimiK25ForConditionalGeneration": _latent_layers,
    "GlmMoeDsaForCausalLM": _latent_layers,
    "Glm4MoeForCausalLM": _glm_moe_layers,
    "GptOssForCausalLM": _gpt_oss_layers,
    "Llama4ForCausalLM": _llama4_layers,
    "Llama4ForConditionalGeneration": _llama4_layers,
    "NemotronHForCausalLM": _nemotron_layers,
    "Step3TextForCausalLM": _step3_layers,
    "Step3VLForConditionalGeneration": _step3_layers,
}

SUPPORTED_ARCHITECTURES: tuple[str, ...] = tuple(sorted(_READERS))
"""Values of `architectures` that `from_config` reads."""


def _groups(layers: list[Layer]) -> tuple[tuple[LayerGroup, ...], int]:
    """Collect alike layers in groups, in the order of their first, and find the period of the sequence.

    The period is 1 where alike layers stand together; else the smallest p, of at most half the layers, with layer i
    alike layer i + p for all i; else the number of layers.
    """
    kinds: list[Layer] = []
    order: list[int] = []
    for layer in layers:
        if layer not in kinds:
            kinds.append(layer)
        order.append(kinds.index(layer))
    groups = tuple(
        LayerGroup(count=order.count(kind), attention=attention, ffn=ffn) for kind, (attention, ffn) in enumerate(kinds)
    )
    if order == sorted(order):
        return groups, 1
    halves = range(1, len(order) // 2 + 1)
    return groups, next((p for p in halves if order[p:] == order[:-p]), len(order))


def _draft_params(config: Config, layers: list[Layer]) -> int:
    """Parameters of the multi-token-prediction modules: each a last layer and a 2 H -> H projection.

    Embedding and head are shared with the model. Source: DeepSeek-V3, arXiv 2412.19437, section 2.2. Nemotron-3 spells
    the layers of its module. MiniMax-M2 names modules in its config that its checkpoint does not hold: not counted.
    """
    key = "mtp_num_hidden_layers" if config.has("mtp_num_hidden_layers") else "num_nextn_predict_layers"
    modules = config.integer(key, default=0, minimum=0)
    if not modules:
        return 0
    spelt = config.has("mtp_hybrid_override_pattern") or config.has("mtp_layers_block_type")
    parts = _nemotron_parts(config, "mtp_") if spelt else layers[-1:]
    hidden = config.integer("hidden_size")
    params = 2 * hidden * hidden
    for attention, ffn in parts:
        params += attention_params(attention, hidden) if attention else 0
        params += ffn_params(ffn, hidden) if ffn else 0
    return modules * params


def _native_precision(config: Config) -> Precision:
    """Read the precision of the checkpoint's weights from `quantization_config`; BF16 without one."""
    if not config.has("quantization_config"):
        return Precision.BF16
    quantization = config.section("quantization_config")
    words = " ".join(
        str(quantization.values[key]).lower()
        for key in ("quant_algo", "quant_method", "format", "fmt")
        if quantization.has(key)
    )
    for marks, precision in (
        (("fp4", "mixed_precision"), Precision.FP4),
        (("pack-quantized", "awq", "gptq", "int4", "w4a16"), Precision.INT4),
        (("fp8", "float-quantized", "e4m3"), Precision.FP8),
        (("int8", "int-quantized", "w8a8", "smoothquant"), Precision.INT8),
    ):
        if any(mark in words for mark in marks):
            return precision
    raise quantization.error(
        "quant_method", f"unknown quantization {words!r}; FP8, FP4, INT8 and INT4 schemes are read"
    )


def _fp8_block_size(config: Config) -> int | None:
    """Read the width of the blocks that share a scale from `quantization_config.weight_block_size`; None without it."""
    if not config.has("quantization_config"):
        return None
    quantization = config.section("quantization_config")
    if not quantization.has("weight_block_size"):
        return None
    size = quantization.values["weight_block_size"]
    whole = isinstance(size, list) and len(size) == 2 and all(type(width) is int and width > 0 for width in size)
    if not whole or size[0] != size[1]:
        raise quantization.error("weight_block_size", f"must hold two equal positive integers, not {size!r}")
    return int(size[0])


def _context(config: Config) -> int:
    """Read the longest context; Step-3 spells the key without its last letter."""
    key = "max_position_embeddings"
    return config.integer("max_position_embedding" if not config.has(key) and config.has("share_q_dim") else key)


def from_config(config: Mapping[str, Any], source: str) -> ModelSpec:
    """Read the architecture that a Hugging Face `config.json` describes.

    Args:
        config: the parsed file.
        source: where it came from, for messages and for `ModelSpec.source`; it also becomes the id.

    Raises:
        SpecError: the architecture is not supported (the message lists those that are), or a key is missing, of the
            wrong type or out of range (the message names file and key).

    """
    if not isinstance(config, Mapping):
        raise SpecError("must hold a JSON object", file=source)
    top = Config(config, source)
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise top.error("architectures", "missing; a list with the name of the architecture is needed")
    reader = _READERS.get(names[0])
    if reader is None:
        supported = ", ".join(SUPPORTED_ARCHITECTURES)
        raise top.error("architectures", f"{names[0]!r} is not supported; supported are {supported}")
    text = top.section("text_config") if top.has("text_config") else top
    layers = reader(text)
    groups, period = _groups(layers)
    # Kimi-K2.5 keeps its quantization beside the language part's other keys, the others at the top.
    quantized = text if text.has("quantization_config") else top
    tied = top.boolean("tie_word_embeddings", default=text.boolean("tie_word_embeddings", _ties_by_default(names[0])))
    return ModelSpec(
        id=source,
        hidden=text.integer("hidden_size"),
        vocab=text.integer("vocab_size"),
        tied_embeddings=tied,
        layers=groups,
        period=period,
        max_context_tokens=_context(text),
        native_precision=_native_precision(quantized),
        fp8_block_size=_fp8_block_size(quantized),
        draft_params=_draft_params(text, layers),
        source=source,
    )


def _ties_by_default(architecture: str) -> bool:
    """Gemma ties its embeddings and leaves the key out of its files."""
    return architecture.startswith("Gemma")
