"""The catalogue as tables, and one entry of it."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.view.figures import number
from specs import catalog
from specs.counts import active_params, total_params
from specs.hardware import GpuSpec
from specs.model import Ffn, ModelSpec, MoeFfn, Precision

_SCALE_UP = {"nvlink": "NVLink", "pcie": "PCIe", "infinity_fabric": "Infinity Fabric", "unified_bus": "UnifiedBus"}


def tables_view(kinds: Sequence[str]) -> RenderableType:
    """Draw the tables of these kinds: `gpus`, `models`, `workloads`."""
    tables = {"gpus": _gpus, "models": _models, "workloads": _workloads}
    parts: list[RenderableType] = []
    for kind in kinds:
        parts += [tables[kind](), Text()]
    return Group(*parts, Text("`cleave catalog NAME` shows one entry and where its figures come from.", style="dim"))


def entry_view(name: str, entry: GpuSpec | ModelSpec | dict[str, int]) -> RenderableType:
    """Draw one entry: every figure, and its source where it has one."""
    if isinstance(entry, GpuSpec):
        return _gpu(entry)
    if isinstance(entry, ModelSpec):
        return _model(entry)
    table = _facts(f"Workload {name}")
    for field, value in entry.items():
        table.add_row(field.replace("_", " "), number(value), "")
    return table


def _table(title: str, *headers: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for i, header in enumerate(headers):
        table.add_column(header, justify="right" if i else "left", no_wrap=True)
    return table


def _facts(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    return table


def _gpus() -> Table:
    table = _table(
        "GPUs  (TFLOP/s dense; scale-up GB/s, scale-out Gbit/s, per GPU and direction)",
        "id", "GiB", "TB/s", "BF16", "FP8", "FP4", "scale-up", "among", "out", "W", "USD/h",
    )  # fmt: skip
    for name in catalog.gpu_ids():
        gpu = catalog.gpu(name)
        rates = (gpu.dense_tflops.get(p) for p in (Precision.BF16, Precision.FP8, Precision.FP4))
        table.add_row(
            gpu.id,
            f"{gpu.memory_bytes / 2**30:.0f}",
            number(gpu.memory_gbyte_per_s / 1000),
            *(number(rate) if rate else "-" for rate in rates),
            number(gpu.scale_up_gbyte_per_s),
            str(gpu.scale_up_domain),
            number(gpu.scale_out_gbit_per_s),
            number(gpu.power_w),
            f"{gpu.cost_per_gpu_hour:.2f}",
        )
    return table


def _models() -> Table:
    table = _table(
        "Models  (parameters in billions)", "id", "total", "active", "layers", "attention", "experts", "weights"
    )
    for name in catalog.model_ids():
        model = catalog.model(name)
        moe = _experts(model)
        table.add_row(
            model.id,
            number(total_params(model) / 1e9),
            number(active_params(model) / 1e9),
            str(model.layer_count),
            _attention(model),
            f"{moe.experts_per_token}/{moe.experts}" if moe else "-",
            model.native_precision.value,
        )
    return table


def _workloads() -> Table:
    table = _table("Workloads  (tokens per request)", "name", "from cache", "new input", "output")
    for name in catalog.workload_ids():
        tokens = catalog.workload(name)
        table.add_row(name, *(number(tokens[key]) for key in ("prefix_tokens", "input_tokens", "output_tokens")))
    return table


def _gpu(gpu: GpuSpec) -> Table:
    table = _facts(f"{gpu.name}  {gpu.id}")

    def row(label: str, value: str, field: str) -> None:
        table.add_row(label, value, gpu.sources.get(field, ""))

    row("also called", ", ".join(gpu.aliases) or "-", "aliases")
    row("memory", f"{gpu.memory_bytes / 2**30:.1f} GiB", "memory_bytes")
    row("memory bandwidth", f"{number(gpu.memory_gbyte_per_s)} GB/s", "memory_gbyte_per_s")
    for i, (precision, rate) in enumerate(gpu.dense_tflops.items()):
        row(f"dense {precision.value}", f"{number(rate)} TFLOP/s", "" if i else "dense_tflops")
    row("scale-up", f"{_SCALE_UP[gpu.scale_up.value]}, {number(gpu.scale_up_gbyte_per_s)} GB/s", "scale_up_gbyte_per_s")
    row("scale-up latency", f"{number(gpu.scale_up_latency_us)} us", "scale_up_latency_us")
    row("scale-up domain", f"{gpu.scale_up_domain} GPUs", "scale_up_domain")
    row("node", f"{gpu.gpus_per_node} GPUs", "gpus_per_node")
    row("scale-out", f"{number(gpu.scale_out_gbit_per_s)} Gbit/s", "scale_out_gbit_per_s")
    row("scale-out latency", f"{number(gpu.scale_out_latency_us)} us", "scale_out_latency_us")
    row("link to the host", f"{number(gpu.host_gbyte_per_s)} GB/s", "host_gbyte_per_s")
    row("power", f"{number(gpu.power_w)} W", "power_w")
    row("price", f"{gpu.cost_per_gpu_hour:.2f} USD/h", "cost_per_gpu_hour")
    return table


def _model(model: ModelSpec) -> Group:
    table = _facts(model.id)
    published = model.published_total_params_billion, model.published_active_params_billion
    total, active = (f"{number(value)} published" if value else "" for value in published)
    table.add_row("also called", ", ".join(model.aliases) or "-", "")
    table.add_row("parameters", f"{number(total_params(model) / 1e9)} billion", total)
    table.add_row("activated", f"{number(active_params(model) / 1e9)} billion", active)
    table.add_row("hidden width", number(model.hidden), "")
    table.add_row("vocabulary", number(model.vocab), "")
    table.add_row("context", f"{number(model.max_context_tokens)} tokens", "")
    table.add_row("weights", model.native_precision.value, "")
    for group in model.layers:
        attention = "no attention" if group.attention is None else group.attention.kind
        table.add_row(f"{group.count} layers", attention, _ffn(group.ffn))
    return Group(table, Text(f"{model.source[0].upper()}{model.source[1:]}", style="dim"))


def _ffn(ffn: Ffn | None) -> str:
    if ffn is None:
        return "no FFN"
    if not isinstance(ffn, MoeFfn):
        return f"dense FFN of width {number(ffn.intermediate)}"
    shared = f", shared experts of width {number(ffn.shared_intermediate)}" if ffn.shared_intermediate else ""
    return f"{ffn.experts_per_token} of {ffn.experts} experts of width {number(ffn.intermediate)}{shared}"


def _attention(model: ModelSpec) -> str:
    kinds = dict.fromkeys(group.attention.kind for group in model.layers if group.attention is not None)
    return "+".join(kinds)


def _experts(model: ModelSpec) -> MoeFfn | None:
    return next((group.ffn for group in model.layers if isinstance(group.ffn, MoeFfn)), None)
