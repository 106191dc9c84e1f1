"""Commands of engines: read back from their shell text and compared with the component."""

import math
import re
import shutil
import subprocess
from collections import Counter

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.launch.address import Address, Ports
from planner.launch.command import Process
from planner.launch.component import Component, DeploymentLaunch
from planner.launch.process import engine_process
from planner.launch.router import router_process
from planner.launch.shell import Shell, quote
from planner.render import Target, render
from specs.engine_table import EngineTable, engine_table, versions
from specs.errors import SpecError
from specs.service import Engine, Mode
from tests.launch.components import DEEPSEEK, HERE, LLAMA, QWEN, component, launched, parsed, table_for, unit
from tests.launch.plans import plan_of
from tests.launch.plans import unit as plan_unit

pytestmark = pytest.mark.filterwarnings("error")


def _process(each: Component, address: Address = HERE, **options: object) -> tuple[Process, dict]:
    table = table_for(each)
    process = engine_process(each, table, address, **options)
    return process, parsed(process, table)


def _prompt_tokens(each: Component) -> int:
    """Prompt tokens of a step on the fullest DP rank: prefill workers put whole prompts on ranks."""
    ranks = min(each.plan.batch, each.plan.dp) if each.plan.role.value == "prefill" else each.plan.dp
    return math.ceil(each.plan.chunk_tokens / ranks)


@pytest.mark.parametrize("version", versions(Engine.VLLM))
def test_vllm_degrees_and_sizes(version: str) -> None:
    count = 0
    for each, table, process in launched("vllm", version):
        flags, plan = parsed(process, table), each.plan
        count += 1
        tp = int(flags["--tensor-parallel-size"])
        dp = int(flags.get("--data-parallel-size", 1))
        pp = int(flags.get("--pipeline-parallel-size", 1))
        assert tp * dp * pp == each.instance_gpus
        assert flags[""] == [each.weights]
        assert int(flags["--max-model-len"]) == each.max_model_len
        afd = flags.get("--additional-config", {}).get("afd")
        if afd is None:
            assert (tp, dp, pp) == (plan.tp, plan.dp, plan.pp)
            assert ("--enable-expert-parallel" in flags) == (plan.ep > 1)
            assert int(flags["--max-num-seqs"]) == math.ceil(plan.batch / plan.dp)
            overlaps = plan.microbatches > plan.pp
            assert ("--enable-dbo" in flags) == overlaps
            for phase in ("decode", "prefill"):
                assert flags.get(f"--dbo-{phase}-token-threshold") == ("2" if overlaps else None)
            redundant = flags.get("--eplb-config", {}).get("num_redundant_experts", 0)
            assert redundant == (
                plan.expert_slots - {DEEPSEEK: 256, QWEN: 128}[each.model.id] if plan.expert_slots else 0
            )
        else:
            assert afd["role"] == plan.role.value
            assert afd[f"num_{plan.role.value}_ranks"] == each.instance_gpus
            assert afd["num_attention_ranks"] >= afd["num_ffn_ranks"]
            assert process.env["VLLM_USE_V2_MODEL_RUNNER"] == "1"
            assert tp == 1 or dp == 1
        assert int(flags["--max-num-batched-tokens"]) >= int(flags["--max-num-seqs"])
        prompts = _prompt_tokens(each)
        decoding = 0 if plan.role.value == "prefill" else int(flags["--max-num-seqs"])
        drafts = flags.get("--speculative-config", {}).get("num_speculative_tokens", 0)
        assert int(flags["--max-num-batched-tokens"]) == max(
            prompts + decoding * (1 + drafts), int(flags["--max-num-seqs"])
        )
        disaggregated = each.mode in (Mode.PREFILL_DECODE, Mode.PREFILL_DECODE_AFD) and plan.role.value != "ffn"
        assert ("--kv-transfer-config" in flags) == disaggregated == ("VLLM_NIXL_SIDE_CHANNEL_HOST" in process.env)
    assert count > 300


def test_vllm_ranks_over_nodes_are_all_there_once() -> None:
    nodes: dict[int, list[dict]] = {}
    for each, table, process in launched("vllm"):
        if each.nodes > 1:
            nodes.setdefault(id(each), []).append({**parsed(process, table), "component": each})
    assert len(nodes) > 20
    for flags in nodes.values():
        each = flags[0]["component"]
        assert len(flags) == each.nodes
        assert [("--headless" in node) for node in flags] == [False] + [True] * (each.nodes - 1)
        if "--data-parallel-size-local" in flags[0]:
            ranks = Counter(
                rank
                for node in flags
                for start in [int(node.get("--data-parallel-start-rank", 0))]
                for rank in range(start, start + int(node["--data-parallel-size-local"]))
            )
            assert ranks == Counter(range(int(flags[0]["--data-parallel-size"])))
        else:
            assert [int(node["--node-rank"]) for node in flags] == list(range(each.nodes))
            assert {int(node["--nnodes"]) for node in flags} == {each.nodes}


@pytest.mark.parametrize("version", versions(Engine.SGLANG))
def test_sglang_degrees_and_sizes(version: str) -> None:
    count = 0
    for each, table, process in launched("sglang", version):
        flags, plan = parsed(process, table), each.plan
        count += 1
        if "--afd-role" in flags:
            continue
        assert flags["--model-path"] == each.weights
        assert int(flags["--tp-size"]) == plan.tp * plan.dp
        assert int(flags.get("--pp-size", 1)) == plan.pp
        assert int(flags.get("--ep-size", 1)) == plan.ep
        if version == "0.5.23":
            assert int(flags.get("--attn-dp-size", 1)) == plan.dp
            assert "--enable-dp-attention" not in flags
        else:
            assert int(flags.get("--dp-size", 1)) == plan.dp
            assert ("--enable-dp-attention" in flags) == (plan.dp > 1)
        assert ("--dist-init-addr" in flags) == (each.nodes > 1 or plan.dp > 1)
        prefills = plan.role.value == "prefill"
        slots, rest = divmod(int(flags["--max-running-requests"]), 4 if prefills else 1)
        assert plan.batch <= slots < plan.batch + plan.dp
        assert (rest, slots % plan.dp) == (0, 0)
        assert flags.get("--prefill-max-requests") == (str(slots // plan.dp) if prefills else None)
        assert ("--enable-two-batch-overlap" in flags) == (plan.microbatches > plan.pp)
        assert flags.get("--disaggregation-mode", "mixed") == plan.role.value
        if plan.chunk_tokens:
            chunk = int(flags["--max-prefill-tokens"])
            assert _prompt_tokens(each) <= chunk < _prompt_tokens(each) + 64
            assert int(flags["--chunked-prefill-size"]) == chunk * plan.dp
        else:
            assert "--chunked-prefill-size" not in flags
        assert 0.8 < float(flags["--mem-fraction-static"]) <= 0.9
        if flags.get("--moe-a2a-backend") == "deepep":
            assert plan.ep == plan.tp * plan.dp > 1
    assert count > 300


@pytest.mark.parametrize("version", versions(Engine.TRTLLM))
def test_trtllm_degrees_and_sizes(version: str) -> None:
    count = 0
    for each, table, process in launched("trtllm", version):
        flags, plan = parsed(process, table), each.plan
        (file,) = process.files
        assert file in (flags.get("--config"), flags.get("--extra_llm_api_options"))
        document = yaml.safe_load(process.files[file])
        count += 1
        assert document["tensor_parallel_size"] == plan.tp * plan.dp
        assert document["pipeline_parallel_size"] == plan.pp
        assert document["enable_attention_dp"] == (plan.dp > 1)
        if plan.expert_slots:
            assert document["moe_expert_parallel_size"] == plan.ep
            assert document["moe_tensor_parallel_size"] == plan.moe_tp
        assert document["max_seq_len"] == each.max_model_len
        assert document["max_batch_size"] * plan.dp * plan.pp >= plan.batch
        decoding = 0 if plan.role.value == "prefill" else math.ceil(plan.batch / plan.dp)
        drafts = next((v for k, v in document.get("speculative_config", {}).items() if k != "decoding_type"), 0)
        prompts = document["max_num_tokens"] - decoding * (1 + drafts)
        assert prompts % 32 == 0 or not plan.chunk_tokens
        assert _prompt_tokens(each) <= prompts < _prompt_tokens(each) + 32
        assert ("cache_transceiver_config" in document) == (each.mode is Mode.PREFILL_DECODE)
        assert process.tasks_per_node == (each.gpus_on_node if each.nodes > 1 else 0)
    assert count > 60


@pytest.mark.parametrize("batch", [1, 4, 8, 24])
def test_a_rank_has_room_for_the_whole_chunk_of_a_prompt(batch: int) -> None:
    """4,000 tokens of each of `batch` prompts per step: on eight DP ranks a prompt lies on one of them."""
    expected = 4000 * math.ceil(batch / 8)
    shape = {"role": "prefill", "mode": "prefill_decode", "dp": 8, "batch": batch, "chunk_tokens": 4000 * batch}
    vllm = _process(component("vllm", ep=8, expert_slots=256, **shape))[1]
    assert int(vllm["--max-num-batched-tokens"]) == expected
    sglang = _process(component("sglang", ep=8, expert_slots=256, **shape))[1]
    pages = math.ceil(expected / 64) * 64
    assert [int(sglang[flag]) for flag in ("--max-prefill-tokens", "--chunked-prefill-size")] == [pages, pages * 8]
    process, _ = _process(component("trtllm", ep=8, expert_slots=256, **shape))
    (text,) = process.files.values()
    assert yaml.safe_load(text)["max_num_tokens"] == expected


def test_trtllm_chunks_end_at_blocks() -> None:
    process, _ = _process(component("trtllm", tp=8, chunk_tokens=1001, batch=3))
    (text,) = process.files.values()
    assert yaml.safe_load(text)["max_num_tokens"] == 1024 + 3


def test_sglang_prefill_keeps_requests_whose_cache_is_on_its_way() -> None:
    """A request is counted until its cache has arrived; without a hand-over there is nothing to wait for."""
    shape = {"role": "prefill", "dp": 8, "ep": 8, "expert_slots": 256, "batch": 16, "chunk_tokens": 8192}
    for mode, running in (("prefill_decode", 64), ("aggregated", 16)):
        flags = _process(component("sglang", mode=mode, **shape))[1]
        assert (flags["--prefill-max-requests"], flags["--max-running-requests"]) == ("2", str(running))


def test_exchange_follows_role_and_domain() -> None:
    wide = {"dp": 16, "ep": 16, "expert_slots": 256, "mode": "prefill_decode"}
    expected = {"prefill": "deepep_high_throughput", "decode": "deepep_low_latency"}
    for role, backend in expected.items():
        assert _process(component(role=role, **wide))[1]["--all2all-backend"] == backend
        assert _process(component(role=role, **wide, gpu="gb200", gpus_per_node=4))[1]["--all2all-backend"] == (
            "allgather_reducescatter"
        )
    for role, deepep in {"prefill": "normal", "decode": "low_latency", "mixed": "auto"}.items():
        mode = "aggregated" if role == "mixed" else "prefill_decode"
        assert _process(component("sglang", role=role, **{**wide, "mode": mode}))[1]["--deepep-mode"] == deepep
    mixed = _process(component(dp=16, ep=16, expert_slots=256))[1]
    assert mixed["--all2all-backend"] == "allgather_reducescatter"
    with pytest.raises(SpecError, match=r"overlap of prompts and decoding in one worker; can: sglang"):
        _process(component(dp=8, ep=8, expert_slots=256, microbatches=2))


def test_afd_sides_agree() -> None:
    attention, ffn = unit(a=16, ep=8)
    address = Address("0", "10.0.0.1", Ports(), {"ffn": "10.0.0.9"}, peer_ports={"ffn": Ports().shifted(3)})
    first = _process(attention, address, partner=ffn)[1]
    second = _process(ffn, Address("0", "10.0.0.9", Ports().shifted(3)), partner=attention)[1]
    sides = [flags["--additional-config"]["afd"] for flags in (first, second)]
    for side in sides:
        assert side.pop("role") in ("attention", "ffn")
    assert sides[0] == sides[1]
    for flag in ("--max-num-seqs", "--max-num-batched-tokens", "--compilation-config", "--enable-dbo"):
        assert first[flag] == second[flag]


def test_sglang_afd_sides_agree() -> None:
    attention, ffn = unit("sglang", QWEN, a=8, ep=8, microbatches=1)
    table = engine_table(Engine.SGLANG, "0.5.21+pr36258")
    there = Ports().shifted(3)
    address = Address("0", "10.0.0.1", Ports(), {"ffn": "10.0.0.9"}, peer_ports={"ffn": there})
    first = engine_process(attention, table, address, partner=ffn)
    second = engine_process(ffn, table, Address("0", "10.0.0.9", there), partner=attention)
    sides = [parsed(process, table) for process in (first, second)]
    assert [side.pop("--afd-role") for side in sides] == ["attn", "ffn"]
    assert sides[1].pop("--ep-size") == "8"
    assert [side.pop("--dist-init-addr") for side in sides] == ["10.0.0.1:10016", f"10.0.0.9:{there.rendezvous}"]
    assert [side.pop("--port") for side in sides] == ["8000", "8003"]
    assert sides[0] == sides[1]
    assert sides[0]["--afd-ffn-addr"] == f"10.0.0.9:{there.afd}"
    assert {"--disable-cuda-graph", "--disable-overlap-schedule", "--enable-dp-attention"} <= set(sides[0])
    assert sides[0]["--tp-size"] == sides[0]["--dp-size"] == "8"
    assert first.env == second.env == {"DMLC_PS_ROOT_PORT": str(there.afd + 1)}
    assert "pull request 36258" in first.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"of": DEEPSEEK}, "DeepSeek-V3.2 .Qwen3 MoE alone"),
        ({"mode": "prefill_decode_afd"}, "behind P/D"),
        ({"microbatches": 2}, "2 micro-batches"),
        ({"tp": 2}, "TP 2 in an attention replica"),
        ({"a": 16}, "16 attention GPUs to 8 FFN GPUs"),
        ({"a": 16, "ep": 16}, "several nodes"),
        ({"expert_slots": 136}, "redundant experts"),
    ],
)
def test_sglang_afd_refusals(changes: dict, message: str) -> None:
    sides = unit("sglang", **{"of": QWEN, "a": 8, "ep": 8, "microbatches": 1, **changes})
    table = engine_table(Engine.SGLANG, "0.5.21+pr36258")
    for each, partner in (sides, sides[::-1]):
        with pytest.raises(SpecError, match=rf"AFD .*{message}.* in version 0\.5\.21\+pr36258; can: vllm"):
            engine_process(each, table, HERE, partner=partner)


def test_weights_of_an_own_model_are_its_folder() -> None:
    for engine in Engine:
        each = component(engine.value, tp=8)
        own = each.service.model_copy(update={"model": "models/mine/config.json"})
        process = engine_process(
            Component(each.name, own, each.model, each.mode, each.pool, each.plan, 8192), table_for(each), HERE
        )
        assert "models/mine" in process.words
        assert "models/mine/config.json" not in process.words


@pytest.mark.parametrize(
    ("given", "loaded"),
    [
        ("deepseek-ai/DeepSeek-V3.2", "deepseek-ai/DeepSeek-V3.2"),
        ("/m/config.json", "/m"),
        ("config.json", "."),
        ("models/mine", "models/mine"),
    ],
)
def test_weights_are_an_id_or_a_folder(given: str, loaded: str) -> None:
    each = component()
    own = each.service.model_copy(update={"model": given})
    assert Component(each.name, own, each.model, each.mode, each.pool, each.plan, 8192).weights == loaded


def test_weights_are_not_beside_a_file_of_another_name() -> None:
    each = component()
    own = each.service.model_copy(update={"model": "/m/foo-config.json"})
    with pytest.raises(SpecError, match=r"'foo-config.json'; accepted: a Hugging Face id, a config\.json"):
        _ = Component(each.name, own, each.model, each.mode, each.pool, each.plan, 8192).weights


REFUSALS = [
    (component(tp=2, dp=4, ep=4, moe_tp=2, expert_slots=256), "tensor-parallel shards.*can: sglang, trtllm"),
    (component(of=LLAMA, tp=1, dp=4), "data-parallel attention of a dense model; can: sglang"),
    (component(tp=8, dp=1, ep=8, expert_slots=256, microbatches=2), "two-batch overlap without.*sglang"),
    (component(role="decode", dp=8, ep=8, expert_slots=256, microbatches=3), "3 micro-batches"),
    (component("trtllm", dp=8, ep=8, expert_slots=256, microbatches=2), "two-batch overlap; can: vllm, sglang"),
    (component("trtllm", tp=2, dp=4, ep=8, expert_slots=256), "all data-parallel or all tensor-parallel"),
    (component("sglang", of=LLAMA, tp=8, microbatches=2), "two-batch overlap without data-parallel attention"),
    (
        component(of=LLAMA, tp=8, service={"speculative": {"draft_tokens": 2, "accept_length": 1.5}}),
        "no multi-token-prediction module",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("each", "message"), REFUSALS, ids=range(len(REFUSALS)))
def test_refusals(each: Component, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        _process(each)


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (unit(a=4, ep=8), "4 attention ranks to 8 FFN ranks"),
        (unit(a=8, ep=8, tp=2), "8 attention replicas with TP 2"),
        (unit(a=1, ep=8, tp=8), "two micro-batches of one attention replica"),
        (unit(a=8, ep=8, microbatches=3), "3 micro-batches"),
        (unit("sglang"), "no SGLang release.*can: vllm"),
        (unit("trtllm"), "no TensorRT-LLM release.*can: vllm"),
    ],
)
def test_afd_refusals(sides: tuple[Component, Component], message: str) -> None:
    for each, partner in (sides, sides[::-1]):
        with pytest.raises(SpecError, match=message):
            _process(each, partner=partner)


def test_afd_needs_the_plugins_version() -> None:
    attention, ffn = unit()
    with pytest.raises(SpecError, match=r"use --engine-version 0\.30\.0"):
        engine_process(attention, engine_table(Engine.VLLM, "0.33.0"), HERE, partner=ffn)


def test_a_table_of_another_engine_is_refused() -> None:
    with pytest.raises(SpecError, match="is not of vllm"):
        engine_process(component(), engine_table(Engine.SGLANG), HERE)


# -- formats --------------------------------------------------------------------------------------------------------


def test_formats() -> None:
    bf16 = {"service": {"precision": "bf16"}}
    assert _process(component(of=LLAMA, tp=8, **bf16))[1]["--kv-cache-dtype"] == "auto"
    assert "--quantization" not in _process(component(of=LLAMA, tp=8, **bf16))[1]
    assert _process(component(of=LLAMA, tp=8))[1]["--quantization"] == "fp8"
    assert "--quantization" not in _process(component(tp=8))[1]
    process, _ = _process(component(tp=8, service={"precision": "fp4", "kv_cache_dtype": "fp8"}))
    assert "NVFP4 checkpoint" in process.notes[0]
    with pytest.raises(SpecError, match="int8"):
        _process(component("trtllm", tp=8, service={"kv_cache_dtype": "int8"}))


BASH = shutil.which("bash") or "bash"


# -- shell ----------------------------------------------------------------------------------------------------------

HOSTILE = [
    "a b",
    "it's",
    '"',
    "$(touch x)",
    "`id`",
    "${HOME}",
    "$HOME/m",
    "a\nb",
    "a;b",
    "--port",
    "!!",
    "*",
    "~",
    "é",
    "\\",
    "a\\\nb",
]


def _shell(process: Process, environment: dict[str, str] | None = None) -> list[str]:
    """Words as bash passes them on."""
    subprocess.run([BASH, "-n", "-c", process.shell()], check=True)
    script = 'show() { printf \'%s\\0\' "$@"; }\nenv() { show env "$@"; }\n' + (
        process.shell() if process.env else "show " + process.shell()
    )
    answer = subprocess.run(
        [BASH, "-c", script], check=True, capture_output=True, env={"PATH": "/nowhere", **(environment or {})}
    )
    return answer.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("engine", [engine.value for engine in Engine])
def test_names_stay_one_word(engine: str, text: str) -> None:
    each = component(engine, tp=8, role="prefill", mode="prefill_decode")
    hostile = Component(
        each.name, each.service.model_copy(update={"model": text}), each.model, each.mode, each.pool, each.plan, 8192
    )
    process = engine_process(hostile, table_for(hostile), HERE, config_dir=text)
    words = _shell(process, {"HOME": "/root"})
    prefix = ["env", *(f"{name}={value}" for name, value in process.env.items())] if process.env else []
    assert words == [*prefix, *process.words]
    assert text in words


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_any_word_survives_bash(texts: list[str]) -> None:
    process = Process(("x", *texts), {"A": texts[0]})
    assert _shell(process) == ["env", f"A={texts[0]}", "x", *texts]


def test_shell_words_expand_and_nothing_else_does() -> None:
    text = Shell('{"host":"$HOST","x":"`id`\\n$((RANK * 4))"}')
    script = f"HOST=h; RANK=3; printf %s {quote(text)}"
    out = subprocess.run([BASH, "-c", script], check=True, capture_output=True).stdout.decode()
    assert out == '{"host":"h","x":"`id`\\n12"}'


@pytest.mark.parametrize("rank", range(4))
def test_ranks_from_the_shell_are_ranks_by_number(rank: int) -> None:
    """A command with `$NODE_RANK` is, once bash has expanded it, the command of that rank."""
    shapes = [
        component(role="decode", mode="prefill_decode", dp=32, ep=32, expert_slots=256),
        component(tp=8, pp=4, expert_slots=0),
        component("sglang", dp=32, ep=32, expert_slots=256),
    ]
    for each in shapes:
        table = table_for(each)
        by_number = engine_process(each, table, Address(str(rank), "10.0.0.1", host="10.0.0.7"))
        by_shell = engine_process(each, table, Address("$NODE_RANK", "$LEADER", host="$HOST"))
        environment = {"NODE_RANK": str(rank), "LEADER": "10.0.0.1", "HOST": "10.0.0.7"}
        assert _shell(by_shell, environment) == _shell(by_number)


def test_a_known_follower_needs_no_condition() -> None:
    each = component(tp=8, pp=2)
    follower = engine_process(each, table_for(each), Address("$RANK", "$LEADER", follower=True))
    leader = engine_process(each, table_for(each), Address("$RANK", "$LEADER", follower=False))
    assert "--headless" in follower.words
    assert "--headless" not in leader.shell()


# -- ports ----------------------------------------------------------------------------------------------------------


def test_ports_of_slots_do_not_meet() -> None:
    taken: Counter[int] = Counter()
    for slot in range(8):
        ports = Ports().shifted(slot)
        taken.update([ports.http, ports.rpc, ports.rendezvous, ports.bootstrap, ports.afd])
        taken.update(range(ports.side_channel, ports.side_channel + 128))
    assert max(taken.values()) == 1
    assert max(taken) < 32_768  # below Linux's ephemeral ports


# -- routers --------------------------------------------------------------------------------------------------------


def _deployment(engine: str, mode: str) -> tuple[DeploymentLaunch, EngineTable]:
    roles = ("prefill", "decode") if mode == "prefill_decode" else ("mixed",)
    parts = tuple(component(engine, role=role, mode=mode, tp=8) for role in roles)
    return DeploymentLaunch("coding", parts[0].service, Mode(mode), 1.0, parts), table_for(parts[0])


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_router_of_both_phases(engine: str) -> None:
    deployment, table = _deployment(engine, "prefill_decode")
    backends = {"prefill": ["http://a:1", "http://b:1"], "decode": ["http://$C:2"]}
    ports = (7, 8) if engine == "sglang" else ()
    process = router_process(deployment, table, backends, 9000, bootstrap_ports=ports)
    assert process is not None
    flags = parsed(process, table, "router")
    assert [each[0] for each in flags["--prefill"]] == backends["prefill"]
    assert [each[1:] for each in flags["--prefill"]] == ([["7"], ["8"]] if ports else [[], []])
    assert flags["--decode"] == [["http://$C:2"]]
    assert flags["--port"] == "9000"
    assert '"http://$C:2"' in process.shell()


def test_router_of_trtllm_reads_a_file() -> None:
    deployment, table = _deployment("trtllm", "prefill_decode")
    process = router_process(
        deployment, table, {"prefill": ["http://a:1/"], "decode": ["http://b:2", "http://c:2"]}, 9000
    )
    assert process is not None
    document = yaml.safe_load(process.files["coding-router.yaml"])
    assert document["context_servers"] == {"num_instances": 1, "urls": ["a:1"]}
    assert document["generation_servers"] == {"num_instances": 2, "urls": ["b:2", "c:2"]}
    assert set(document) <= set(table.documents["router"])


def test_router_of_equal_instances() -> None:
    for engine in ("vllm", "sglang"):
        deployment, table = _deployment(engine, "aggregated")
        assert router_process(deployment, table, {"mixed": ["http://a:1"]}, 9000) is None
        process = router_process(deployment, table, {"mixed": ["http://a:1", "http://b:1"]}, 9000)
        assert process is not None
        assert parsed(process, table, "router")["--worker-urls"] == [["http://a:1", "http://b:1"]]
    deployment, table = _deployment("trtllm", "aggregated")
    assert router_process(deployment, table, {"mixed": ["http://a:1", "http://b:1"]}, 9000) is None


def test_no_router_for_half_of_both_phases() -> None:
    deployment, table = _deployment("vllm", "prefill_decode")
    assert router_process(deployment, table, {"decode": ["http://a:1", "http://b:1"]}, 9000) is None


def test_commands_have_one_flag_per_line() -> None:
    text = _process(component(tp=8))[0].shell()
    assert all(re.match(r"  --\S+( \S+)?( \\)?$", line) for line in text.splitlines()[1:])


def test_render_for_the_pull_request_of_sglang() -> None:
    sides = [side.model_copy(update={"microbatches": 1}) for side in plan_unit(2, 4, 4)]
    plan = plan_of(sides, mode=Mode.AFD, engine=Engine.SGLANG)
    files = render(plan, Target.SGLANG, engine_version="0.5.21+pr36258")
    text = "\n".join(files.values())
    assert text.count("--afd-role attn") == text.count("--afd-role ffn") == 2
    assert "install StepMesh" in files["README.txt"]
    for version in (None, "0.5.23", "0.5.21"):
        with pytest.raises(SpecError, match=r"no SGLang release .*--engine-version 0\.5\.21\+pr36258.*; can: vllm"):
            render(plan, Target.SGLANG, engine_version=version)
