"""The layout that an engine's flags ask for, as its own documentation reads them.

vLLM: attention is cut over `--tensor-parallel-size` inside each of `--data-parallel-size` ranks; with
`--enable-expert-parallel` experts lie whole on tp x dp ranks, else each is cut over them.
SGLang: `--tp-size` counts the GPUs of a stage; under attention data parallelism `--dp-size` ranks share them;
`--ep-size` groups of experts, each cut over tp / ep.
TensorRT-LLM: `tensor_parallel_size` GPUs of a stage, each its own rank under `enable_attention_dp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planner.check.findings import Findings
from planner.check.instance import Process
from planner.check.model_memory import Shards
from planner.check.place import Place
from specs.plan import Role
from specs.service import Engine

RULE = "shards"

Value = int | float | str | bool | None


@dataclass(frozen=True)
class Layout:
    """What one engine instance is told; None where it is not said.

    Args:
        shards: degrees of parallelism.
        nodes: of one instance.
        rank_gpus: GPUs of one DP rank.
        values: the other settings by name (`docs/check.md` lists them).
        places: of degrees and settings.
        role: that the flags give it.
    """

    shards: Shards
    nodes: int
    values: Mapping[str, Value]
    places: Mapping[str, Place]
    role: Role | None = None

    @property
    def gpus(self) -> int:
        """GPUs of one instance."""
        return self.shards.attention_gpus

    def place(self, name: str, otherwise: Place) -> Place:
        """Where a value was read."""
        return self.places.get(name, otherwise)

    def number(self, name: str) -> float | None:
        """A setting as a number."""
        value = self.values.get(name)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def layout_of(process: Process, findings: Findings) -> Layout:
    """The layout of a process; degrees that contradict one another are violations."""
    reader = {Engine.VLLM: _vllm, Engine.SGLANG: _sglang, Engine.TRTLLM: _trtllm}[process.engine]
    return reader(_Read(process, findings))


@dataclass
class _Read:
    """Reads settings of a process and remembers their places."""

    process: Process
    findings: Findings
    values: dict[str, Value] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def degree(self, name: str, concept: str, default: int = 1) -> int:
        """A degree of parallelism: at least 1."""
        arguments = self.process.arguments
        self.places[name] = arguments.place_of(concept)
        value = arguments.whole(concept)
        if value is None:
            return default
        if value < 1:
            self.findings.wrong(RULE, self.places[name], f"must be at least 1, got {value}", self.flag(concept))
            return default
        return value

    def whole(self, name: str, concept: str) -> int | None:
        """A whole number."""
        self.places[name] = self.process.arguments.place_of(concept)
        value = self.process.arguments.whole(concept)
        self.values[name] = value
        return value

    def number(self, name: str, concept: str) -> None:
        """A number."""
        self.places[name] = self.process.arguments.place_of(concept)
        self.values[name] = self.process.arguments.number(concept)

    def word(self, name: str, concept: str) -> None:
        """A text, in Cleave's word where the table has one."""
        arguments = self.process.arguments
        self.places[name] = arguments.place_of(concept)
        text = arguments.text(concept)
        known = arguments.program.values.get(concept, {})
        self.values[name] = next((ours for ours, theirs in known.items() if theirs == text), text)

    def switch(self, name: str, concept: str) -> bool:
        """Whether a switch is on."""
        self.places[name] = self.process.arguments.place_of(concept)
        given = self.process.arguments.has(concept)
        self.values[name] = given
        return given

    def inner(self, name: str, concept: str, *keys: str) -> Any:
        """A value inside a JSON argument."""
        self.places[name] = self.process.arguments.place_of(concept)
        found: Any = self.process.arguments.document(concept)
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        self.values[name] = found if isinstance(found, int | float | str | bool) else None
        return found

    def key(self, name: str, key: str, default: Value = None) -> Value:
        """A value of the YAML file."""
        fact = self.process.config.get(key)
        self.places[name] = fact.place if fact is not None else self.process.place
        value = fact.value if fact is not None else default
        self.values[name] = value if isinstance(value, int | float | str | bool) else default
        return self.values[name]

    def key_degree(self, name: str, key: str, default: int = 1) -> int:
        """A degree in the YAML file: at least 1."""
        value = self.key(name, key)
        if type(value) is not int:
            return default
        if value < 1:
            self.findings.wrong(RULE, self.places[name], f"must be at least 1, got {value}", key)
            return default
        return value

    def flag(self, concept: str) -> str:
        """The flag of a concept, for messages."""
        return self.process.arguments.program.concepts.get(concept, concept)

    def divided(self, name: str, whole: int, part: int, what: str) -> int:
        """How many parts a whole has; one that does not divide is a violation."""
        if whole % part:
            self.findings.wrong(RULE, self.places[name], f"{part} does not divide {what} = {whole}", name)
        return max(1, whole // part)

    def layout(self, shards: Shards, nodes: int, role: Role | None = None) -> Layout:
        """All that was read."""
        return Layout(shards, nodes, dict(self.values), dict(self.places), role)


def _vllm(read: _Read) -> Layout:
    arguments = read.process.arguments
    tp = read.degree("tp", "tensor_parallel")
    pp = read.degree("pp", "pipeline_parallel")
    dp = read.degree("dp", "data_parallel")
    read.places["ep"] = read.places["moe_tp"] = arguments.place_of("expert_parallel")
    spread = arguments.has("expert_parallel")
    shards = Shards(tp, dp, tp * dp if spread else 1, 1 if spread else tp * dp, pp)
    nodes = read.degree("nodes", "nodes")
    if arguments.argument("data_parallel_local") is not None:
        local = read.degree("data_parallel_local", "data_parallel_local")
        nodes = read.divided("data_parallel_local", dp, local, "data parallelism")
    read.whole("sequences", "max_sequences")
    read.whole("step_tokens", "max_step_tokens")
    read.whole("max_length", "max_model_len")
    read.number("memory_fraction", "memory_fraction")
    read.whole("graph_size", "graph_tokens")
    read.word("kv_dtype", "kv_cache_dtype")
    read.word("quantization", "quantization")
    read.word("exchange", "expert_exchange")
    read.switch("overlap", "overlap")
    read.inner("redundant", "expert_balance_config", "num_redundant_experts")
    read.switch("balance", "expert_balance")
    read.inner("drafts", "speculative_config", "num_speculative_tokens")
    read.inner("draft_method", "speculative_config", "method")
    read.inner("transfer", "kv_transfer_config", "kv_connector")
    read.inner("transfer_role", "kv_transfer_config", "kv_role")
    read.whole("overlap_from", "overlap_decode_tokens")
    read.whole("overlap_prompts_from", "overlap_prefill_tokens")
    afd = read.inner("afd", "additional_config", "afd")
    role = None
    if isinstance(afd, dict):
        for key in ("role", "connector", "host", "port", "num_attention_ranks", "num_ffn_ranks"):
            read.inner(f"afd_{key}", "additional_config", "afd", key)
        role = {"attention": Role.ATTENTION, "ffn": Role.FFN}.get(str(afd.get("role")))
        read.inner("graph_mode", "compilation_config", "cudagraph_mode")
        read.values["graph_limit"], read.places["graph_limit"] = read.values["graph_size"], read.places["graph_size"]
        sizes = read.inner("graph_sizes", "compilation_config", "cudagraph_capture_sizes")
        read.values["graph_size"] = sizes[0] if isinstance(sizes, list) and len(sizes) == 1 else None
        read.places["graph_size"] = read.places["graph_sizes"]
        runner = read.process.env.get(read.process.table.environment.get("model_runner", ""))
        read.values["model_runner"] = runner.value if runner is not None else None
    return read.layout(shards, nodes, role)


def _sglang(read: _Read) -> Layout:
    arguments = read.process.arguments
    width = read.degree("tp", "tensor_parallel")
    pp = read.degree("pp", "pipeline_parallel")
    dp = read.degree("dp", "attention_data_parallel")
    if dp > 1 and arguments.program.has("attention_data_parallel_switch"):
        if not read.switch("dp_attention", "attention_data_parallel_switch"):
            message = "ranks share GPUs only with the switch for attention data parallelism"
            read.findings.wrong(RULE, read.places["dp"], message, read.flag("attention_data_parallel_switch"))
    elif read.switch("dp_attention", "attention_data_parallel_switch"):
        read.findings.wrong(
            RULE,
            read.places["dp_attention"],
            "attention data parallelism is on with one rank",
            read.flag("attention_data_parallel_switch"),
        )
    ep = read.degree("ep", "expert_parallel")
    read.places["moe_tp"] = read.places["ep"]
    tp, moe_tp = (
        read.divided("dp", width, dp, "tensor parallelism"),
        read.divided("ep", width, ep, "tensor parallelism"),
    )
    nodes = read.degree("nodes", "nodes")
    total = read.whole("total_sequences", "max_sequences")
    read.places["sequences"] = read.places["total_sequences"]
    # A prefill server's requests stay until their caches have arrived; its batch has a limit of its own, per rank.
    prompts = read.whole("prompts", "max_prompts")
    read.values["sequences"] = prompts if prompts is not None else None if total is None else -(-total // dp)
    chunk = read.whole("total_chunk", "max_prompt_tokens")
    read.places["chunk"] = read.places["total_chunk"]
    read.values["chunk"] = None if chunk is None else chunk // dp
    read.whole("step_tokens", "max_step_tokens")
    read.whole("max_length", "max_model_len")
    read.number("memory_fraction", "memory_fraction")
    read.whole("graph_size", "graph_sequences")
    read.word("kv_dtype", "kv_cache_dtype")
    read.word("quantization", "quantization")
    read.word("exchange", "expert_exchange")
    read.word("exchange_mode", "expert_exchange_mode")
    read.switch("overlap", "overlap")
    read.whole("redundant", "redundant_experts")
    read.switch("balance", "expert_balance")
    read.whole("drafts", "draft_steps")
    read.whole("draft_width", "draft_width")
    read.whole("draft_tokens", "draft_tokens")
    read.word("draft_method", "draft_algorithm")
    read.word("disaggregation", "disaggregation")
    read.word("transfer", "kv_transfer")
    read.whole("bootstrap_port", "bootstrap_port")
    side = read.values["disaggregation"]
    role = {"prefill": Role.PREFILL, "decode": Role.DECODE}.get(str(side))
    if arguments.program.has("afd_role"):
        role = _sglang_afd(read) or role
        if role is Role.ATTENTION and arguments.argument("expert_parallel") is None:
            ep, moe_tp = width, 1  # it holds no experts, and their degrees are the other side's
    dispatch = read.process.env.get(read.process.table.environment.get("dispatch_tokens", ""))
    if dispatch is not None:
        read.values["dispatch_tokens"] = int(dispatch.value) if dispatch.value.isdecimal() else dispatch.value
        read.places["dispatch_tokens"] = dispatch.place
    return read.layout(Shards(tp, dp, ep, moe_tp, pp), nodes, role)


def _sglang_afd(read: _Read) -> Role | None:
    """The side of an AFD unit, and where it meets the other."""
    arguments = read.process.arguments
    read.word("afd_role", "afd_role")
    read.word("afd_connector", "afd_transfer")
    read.switch("no_graphs", "no_graphs")
    read.switch("no_overlap", "no_overlap_schedule")
    host, _, port = (arguments.text("afd_meeting") or "").rpartition(":")
    read.places["afd_host"] = read.places["afd_port"] = arguments.place_of("afd_meeting")
    read.values["afd_host"] = host or None
    read.values["afd_port"] = int(port) if port.isdecimal() and len(port) < 6 else None
    scheduler = read.process.env.get(read.process.table.environment.get("afd_scheduler_port", ""))
    if scheduler is not None:
        read.values["afd_scheduler_port"] = int(scheduler.value) if scheduler.value.isdecimal() else scheduler.value
        read.places["afd_scheduler_port"] = scheduler.place
    return {"attention": Role.ATTENTION, "ffn": Role.FFN}.get(str(read.values["afd_role"]))


def _trtllm(read: _Read) -> Layout:
    width = read.key_degree("tp", "tensor_parallel_size")
    pp = read.key_degree("pp", "pipeline_parallel_size")
    spread = read.key("dp", "enable_attention_dp", False) is True
    ep = read.key_degree("ep", "moe_expert_parallel_size")
    moe_tp = read.key_degree("moe_tp", "moe_tensor_parallel_size", max(1, width // ep))
    shards = Shards(1 if spread else width, width if spread else 1, ep, moe_tp, pp)
    read.key("stage_sequences", "max_batch_size")
    read.places["sequences"] = read.places["stage_sequences"]
    stage = read.values["stage_sequences"]
    read.values["sequences"] = stage * pp if isinstance(stage, int) else None
    read.key("step_tokens", "max_num_tokens")
    read.key("max_length", "max_seq_len")
    read.key("free_fraction", "kv_cache_config.free_gpu_memory_fraction")
    word = read.key("kv_dtype", "kv_cache_config.dtype")
    known = read.process.arguments.program.values.get("kv_cache_dtype", {})
    read.values["kv_dtype"] = next((ours for ours, theirs in known.items() if theirs == word), word)
    read.key("reuse", "kv_cache_config.enable_block_reuse")
    read.key("chunked", "enable_chunked_prefill", False)
    read.key("graph_size", "cuda_graph_config.max_batch_size")
    read.key("graph_padding", "cuda_graph_config.enable_padding")
    read.key("slots", "moe_config.load_balancer.num_slots")
    read.key("balance_updates", "moe_config.load_balancer.layer_updates_per_iter")
    read.key("draft_method", "speculative_config.decoding_type")
    drafts = [key for key in read.process.config if key.startswith("speculative_config.") and "type" not in key]
    if drafts:
        read.key("drafts", drafts[0])
    read.key("transfer", "cache_transceiver_config.backend")
    read.key("transfer_tokens", "cache_transceiver_config.max_tokens_in_buffer")
    read.key("no_overlap", "disable_overlap_scheduler", False)
    backend = read.process.arguments.text("backend")
    if backend is not None:
        read.values["backend"] = backend
        read.places["backend"] = read.process.arguments.place_of("backend")
    return read.layout(shards, 1)
