"""The catalogue: names, files, loading cost and the page made of it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from specs import catalog
from specs.errors import SpecError
from specs.hardware import Architecture, GpuSpec
from specs.model import Precision

ROOT = Path(__file__).parents[2]
CONFIGS = Path(__file__).parent / "configs"

REQUIRED_GPUS = "a100 h100 h200 h20 h800 b200 b300 gb200 gb300 l40s rtx-pro-6000 mi300x mi355x 910c"
REQUIRED_MODELS = """
    deepseek-v3 deepseek-r1 deepseek-v3.1 deepseek-v3.2 qwen3-32b qwen3-30b-a3b qwen3-235b-a22b qwen3.5-397b-a17b
    gpt-oss-120b kimi-k2 glm-5 minimax-m2.5 llama-3.1-8b llama-3.1-70b llama-3.1-405b llama-4-maverick nemotron-3-120b
    mixtral-8x7b step-3
"""


@pytest.fixture
def cold() -> None:
    """Forget what was read before."""
    for cached in (catalog._index, catalog._gpu, catalog._model, catalog._workloads):
        cached.cache_clear()


@pytest.mark.parametrize("name", REQUIRED_GPUS.split())
def test_required_gpu(name: str) -> None:
    assert catalog.gpu(name).id in catalog.gpu_ids()


@pytest.mark.parametrize("name", REQUIRED_MODELS.split())
def test_required_model(name: str) -> None:
    assert catalog.model(name).id in catalog.model_ids()


def test_every_id_and_alias_finds_its_entry_in_any_case() -> None:
    gpus = [catalog.gpu(name) for name in catalog.gpu_ids()]
    assert len(gpus) == len(list((catalog.DATA / "gpus").glob("*.json")))
    for gpu in gpus:
        for name in (gpu.id, *gpu.aliases):
            assert catalog.gpu(name) == catalog.gpu(f" {name.upper()} ") == gpu
    models = [catalog.model(name) for name in catalog.model_ids()]
    assert len(models) == len(list((catalog.DATA / "models").glob("*.json")))
    for model in models:
        for name in (model.id, *model.aliases):
            assert catalog.model(name) == catalog.model(name.upper()) == model


def test_index_is_current() -> None:
    index = json.loads((catalog.DATA / "index.json").read_text())
    assert index == catalog.build_index(), "run: python -m specs.catalog index > specs/data/index.json"


def test_gpu_files_are_named_by_id() -> None:
    for path in (catalog.DATA / "gpus").glob("*.json"):
        assert json.loads(path.read_text())["id"] == path.stem


def test_page_is_current() -> None:
    page = (ROOT / "docs" / "catalog.md").read_text(encoding="utf-8")
    assert page == catalog.markdown(), "run: python -m specs.catalog > docs/catalog.md"


def test_module_prints_the_page() -> None:
    command = [sys.executable, "-m", "specs.catalog"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, encoding="utf-8")
    assert printed.stdout == catalog.markdown()


@pytest.mark.usefixtures("cold")
def test_one_gpu_and_one_model_read_three_files(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = catalog._read

    def recording(path: Path) -> object:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(catalog, "_read", recording)
    for _ in range(2):
        catalog.gpu("h200")
        catalog.model("deepseek-v3")
    assert read == ["index.json", "h200-sxm-141gb.json", "deepseek-v3.json"]


def test_one_gpu_and_one_model_cost_below_five_milliseconds() -> None:
    def seconds() -> float:
        for cached in (catalog._index, catalog._gpu, catalog._model):
            cached.cache_clear()
        start = time.perf_counter()
        catalog.gpu("h200")
        catalog.model("deepseek-v3.2")
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 5e-3


@pytest.mark.parametrize(
    ("look_up", "name", "near"),
    [
        (catalog.gpu, "h2000", "h200"),
        (catalog.gpu, "b200-sxm-190gb", "b200-sxm-180gb"),
        (catalog.model, "deepsek-v3", "deepseek-v3"),
        (catalog.model, "Qwen/Qwen3-235B", "qwen/qwen3-235b-a22b"),
        (catalog.workload, "codng", "coding"),
        (catalog.gpu, "", "h20"),
        (catalog.model, "x" * 5000, "step3"),
        (catalog.model, "a\0b", "step3"),
    ],
)
def test_unknown_name_gives_the_nearest(look_up: object, name: str, near: str) -> None:
    assert callable(look_up)
    with pytest.raises(SpecError) as caught:
        look_up(name)
    message = caught.value.message
    assert "`cleave catalog`" in message
    nearest = message.split("nearest are ")[1].split("; ")[0].removesuffix(", and no config.json is at that path")
    assert len(nearest.split(", ")) == 3
    if name and len(name) < 100 and "\0" not in name:
        assert near in nearest.split(", ")


def test_model_from_a_file_and_from_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text((CONFIGS / "qwen3-32b.json").read_text())
    by_folder, by_file = catalog.model(str(folder)), catalog.model(str(folder / "config.json"))
    assert by_folder == by_file
    assert by_folder.id == "my-model"
    assert by_folder.layers == catalog.model("qwen3-32b").layers


def test_home_of_an_unknown_user_is_no_file() -> None:
    with pytest.raises(SpecError, match="no such file"):
        catalog.model("~no-such-user/config.json")


def test_missing_file_is_named() -> None:
    with pytest.raises(SpecError) as caught:
        catalog.model("./nowhere/config.json")
    assert caught.value.file == "nowhere/config.json"
    assert caught.value.field == "model"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'{\n"architectures": ["LlamaForCausalLM"],\n"hidden_size" 4096}', 3),
        (b"", 1),
        (b"\xff\xfe{}", None),
        (b"[" * 10**5, None),
        (b"9" * 5000, None),
    ],
)
def test_malformed_file_is_named_with_its_line(tmp_path: Path, content: bytes, line: int | None) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        catalog.model(str(path))
    assert caught.value.file == str(path)
    assert caught.value.line == line


def test_clashing_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpus").mkdir()
    for stem in ("one", "two"):
        (tmp_path / "gpus" / f"{stem}.json").write_text(json.dumps({"id": stem, "aliases": ["Same"]}))
    monkeypatch.setattr(catalog, "DATA", tmp_path)
    with pytest.raises(SpecError, match="'Same' is also a name of one"):
        catalog.build_index()


def test_workloads_of_the_paper() -> None:
    def lengths(name: str) -> tuple[int, ...]:
        return tuple(catalog.workload(name)[key] for key in ("prefix_tokens", "input_tokens", "output_tokens"))

    assert lengths("chat") == (4096, 512, 256)
    assert lengths("CODING") == (2048, 4096, 1024)
    assert lengths("agentic") == (524288, 256, 8192)
    assert lengths("balanced-1k") == (0, 1024, 1024)
    assert lengths("summarise-8k") == (0, 8192, 1024)
    assert lengths("reason-8k") == (0, 1024, 8192)
    assert lengths("aiconfigurator-4000-500") == (0, 4000, 500)
    assert len(catalog.workload_ids()) == 7


def test_changing_a_workload_leaves_the_catalogue() -> None:
    catalog.workload("chat")["input_tokens"] = 1
    assert catalog.workload("chat")["input_tokens"] == 512


@pytest.mark.parametrize("name", catalog.gpu_ids())
def test_gpu_is_consistent(name: str) -> None:
    gpu = catalog.gpu(name)
    fields = set(GpuSpec.model_fields)
    assert set(gpu.sources) <= fields
    unsourced = fields - set(gpu.sources) - {"id", "aliases", "name", "vendor", "architecture", "scale_up", "sources"}
    assert unsourced == {"gpus_per_node"}, "gpus_per_node has the source of scale_up_domain"
    assert gpu.scale_up_domain % gpu.gpus_per_node == 0
    # The scale-up network is the faster one: else no layout rule of the planner makes sense.
    assert gpu.scale_up_gbyte_per_s >= gpu.scale_out_gbit_per_s / 8
    # The name's size is the maker's, in GB or GiB; the driver reports within 8% of it.
    size = int(gpu.id.rsplit("-", 1)[1].removesuffix("gb"))
    assert 0.92 * size * 1e9 <= gpu.memory_bytes <= 1.08 * size * 1e9
    if gpu.architecture not in {Architecture.AMPERE, Architecture.DAVINCI}:
        assert gpu.dense_tflops[Precision.FP8] == pytest.approx(2 * gpu.dense_tflops[Precision.BF16], rel=0.02)


def test_facts_that_others_get_wrong() -> None:
    # Per direction, not the sum of both; dense, not sparse.
    assert catalog.gpu("h100").scale_up_gbyte_per_s == 450
    assert catalog.gpu("b200").scale_up_gbyte_per_s == 900
    assert catalog.gpu("h800").scale_up_gbyte_per_s == 200
    assert catalog.gpu("gb200").scale_up_domain == 72
    assert catalog.gpu("910c").scale_up_domain == 384
    assert catalog.gpu("h100").dense_tflops[Precision.FP8] == 1979


def test_unsupported_precision_runs_at_the_bf16_rate() -> None:
    a100 = catalog.gpu("a100")
    assert a100.tflops(Precision.FP8) == a100.tflops(Precision.BF16) == 312
    assert catalog.gpu("h100").tflops(Precision.FP4) == catalog.gpu("h100").tflops(Precision.BF16)
    assert catalog.gpu("b200").tflops(Precision.FP4) == 9000


@pytest.mark.parametrize("name", catalog.model_ids())
def test_model_is_consistent(name: str) -> None:
    model = catalog.model(name)
    assert model.source
    assert model.period == 1 or sum(group.count for group in model.layers) >= model.period
    assert any(alias == alias.lower() and "/" not in alias for alias in model.aliases), "a short alias"
