"""A prediction in the terminal: what a configuration reaches, what fills its memory, where the time goes."""

from collections import Counter

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from planner.view.figures import MODE_NAMES, milliseconds, number, percent
from planner.view.pools_view import pools_view
from specs.plan import Role
from specs.prediction import Benchmark, Configuration, Memory, Obstacle, Prediction
from specs.scenario import Pool

BAR_WIDTH = 40
PARTS = (("weights", "█", "blue"), ("kv", "▓", "cyan"), ("activations", "▒", "magenta"))
"""What fills memory: field, character and colour."""

_STEPS = {"decode": "decode step", "mixed": "step with prompt chunks", "prefill": "prefill"}
_OBSTACLES = {Obstacle.MEMORY: "DOES NOT FIT", Obstacle.SATURATED: "SATURATED"}


def predict_view(prediction: Prediction, configuration: Configuration) -> RenderableType:
    """Draw a prediction."""
    parts: list[RenderableType] = [_what(configuration)]
    parts.append(_figures(prediction) if prediction.feasible else _refusal(prediction))
    if prediction.benchmark is not None:
        parts += [_benchmark(prediction.benchmark), Text()]
    if prediction.pools:
        parts += [pools_view(prediction.pools, utilisation=False)]
    parts += [Text("Memory of one GPU", style="bold"), _memory(prediction.memory)]
    for kind, operators in prediction.breakdown.items():
        parts += [Text(), *_breakdown(_STEPS.get(kind, kind), operators)]
    if prediction.notes:
        parts += [Text(), *(Text(f"note: {note}", style="yellow") for note in prediction.notes)]
    parts += [Text(), _provenance(prediction)]
    return Group(*parts)


def _what(configuration: Configuration) -> Text:
    counts: Counter[str] = Counter()
    for layout in configuration.servers.values():
        gpu = configuration.gpu if layout.gpu is None else layout.gpu
        counts[f"{gpu.name} ({gpu.gpu})" if isinstance(gpu, Pool) else gpu] += layout.replicas * layout.gpus
    return Text.assemble(
        (configuration.model, "bold cyan"),
        f"  {configuration.precision.value}, KV {configuration.kv_cache_dtype.value}, {configuration.engine.value}, "
        f"{MODE_NAMES[configuration.mode.value]} on " + " + ".join(f"{count} x {gpu}" for gpu, count in counts.items()),
    )


def _benchmark(run: Benchmark) -> RenderableType:
    """What the clients of a run see."""
    table = Table(box=box.SIMPLE, pad_edge=False, title=f"benchmark of {run.requests:,} requests", title_justify="left")
    for heading in ("as clients see it", "mean", "p50", "p90", "p99"):
        table.add_column(heading, justify="left" if heading.startswith("as") else "right")
    for name, seen in (("TTFT", run.ttft_ms), ("TPOT", run.tpot_ms)):
        if seen is not None:
            table.add_row(name, *(milliseconds(value) for value in (seen.mean, seen.p50, seen.p90, seen.p99)))
    table.add_row("throughput", f"{number(run.throughput_tok_s)} tokens/s", "", "", "")
    return table


def _figures(prediction: Prediction) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for style in ("dim", "bold", "dim"):
        table.add_column(style=style, no_wrap=style != "dim", overflow="fold")
    statistic = prediction.statistic.value
    table.add_row("TTFT", milliseconds(prediction.ttft_ms), statistic)
    per_user = f", {number(1e3 / prediction.tpot_ms)} tokens/s per user" if prediction.tpot_ms else ""
    table.add_row("TPOT", milliseconds(prediction.tpot_ms), f"{statistic}{per_user}")
    table.add_row(
        "throughput",
        f"{number(prediction.throughput_tok_s or 0.0)} tokens/s",
        f"{number(prediction.throughput_tok_s_per_gpu or 0.0)} output tokens/s per GPU",
    )
    largest = prediction.largest_rate_rps or 0.0
    table.add_row(
        "rate",
        f"{number(prediction.request_rate_rps or 0.0)} requests/s",
        f"{number(largest)} with all slots or steps full",
    )
    used = f"{percent(round(prediction.utilisation or 0.0, 3))} of {number(prediction.slots)} slots"
    table.add_row("in flight", number(prediction.in_flight or 0.0), used)
    if prediction.prefill_utilisation is not None:
        busy = f"{percent(round(prediction.prefill_utilisation, 3))} of the time"
        table.add_row("prefill busy", busy, f"{milliseconds(prediction.prefill_ms)} for a step's prompts")
    if prediction.prompt_step_share is not None:
        share = f"{percent(round(prediction.prompt_step_share, 3))} of steps"
        chunks = f"{prediction.chunks} chunk{'s' * (prediction.chunks > 1)} per prompt"
        table.add_row("prompt chunks", share, f"{chunks}, {milliseconds(prediction.prefill_ms)} without waits")
    return Padding(table, (0, 0, 1, 2))


def _refusal(prediction: Prediction) -> RenderableType:
    assert prediction.obstacle is not None
    text = Text.assemble((_OBSTACLES[prediction.obstacle], "bold red"), f"  {prediction.reason}")
    return Padding(text, (0, 0, 1, 2))


def _memory(memory: dict[Role, Memory]) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for role, each in memory.items():
        bar, words = Text(), Text()
        whole = max(each.available, each.weights + each.kv + each.activations)
        filled = 0.0
        for name, character, style in PARTS:
            size = getattr(each, name)
            start, filled = filled, filled + size
            cells = round(BAR_WIDTH * filled / whole) - round(BAR_WIDTH * start / whole)
            bar.append(character * cells, style)
            label = "KV" if name == "kv" else name
            words.append(f"{character} {label} ", style).append(f"{number(size / 1e9)}  ")
        bar.append("░" * (BAR_WIDTH - len(bar)), "dim")
        free = each.free / 1e9
        words.append(
            f"{'free' if free >= 0 else 'short by'} {number(abs(free))} of {number(each.available / 1e9)} GB",
            "" if free >= 0 else "bold red",
        )
        table.add_row(role.value, bar)
        table.add_row("", words)
    return Padding(table, (0, 0, 0, 2))


def _breakdown(title: str, operators: dict[str, float]) -> list[RenderableType]:
    """Operators by their time, the longest first; a bar is the share of all that runs one after the other."""
    step = sum(operators.values())
    serial = sum(value for value in operators.values() if value > 0)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, style="dim")
    table.add_column(no_wrap=True)
    for name, value in sorted(operators.items(), key=lambda item: -item[1]):
        share = value / serial
        bar = Text("█" * round(BAR_WIDTH * share) or "▏", "cyan") if share > 0 else Text("runs side by side", "dim")
        table.add_row(name.replace("_", " "), milliseconds(value), f"{share:.1%}", bar)
    return [Text.assemble((f"{title}  ", "bold"), milliseconds(step)), Padding(table, (0, 0, 0, 2))]


def _provenance(prediction: Prediction) -> Text:
    provenance = prediction.provenance
    text = Text(f"kernels: {provenance.kernels}", style="dim")
    if provenance.linearisation_error is not None:
        text.append(f"; linearised within {percent(provenance.linearisation_error)}")
    for note in provenance.notes:
        text.append(f"\n{note}")
    return text
