"""Reads measured serving points: one CSV row is one configuration with what clients of it saw.

The columns are those of the corpus that `docs/accuracy.md` is scored on. A row is either a `Point`, with every name
resolved by the catalogue and its layout in the terms of `planner.costs.layout`, or `Refused` with the reason. Only a
malformed file is an error.

Degrees as the corpus writes them: `tp` and `dp` are attention degrees, a worker has tp x dp x pp GPUs, and `ep` lies
over tp x dp: 1 shards every expert over all of them, tp x dp puts whole experts on them. Of a P/D row `tp`, `dp` and
`ep` repeat the decode side, and `n_gpus` is the sum over all workers. Concurrency is that of the whole deployment.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from planner.accuracy.recipes import REQUESTS_PER_SLOT, Recipe, Run, recipe_of
from specs import catalog
from specs.errors import SpecError
from specs.model import ModelSpec, MoeFfn, Precision, default_cache
from specs.plan import Role
from specs.service import Engine, Mode, Phase, Speculative
from specs.workload import Arrival, ArrivalProcess, MeanLength, Workload

MAX_BYTES = 256_000_000
REQUIRED = (
    "model", "precision", "gpu", "n_gpus", "mode", "framework", "tp", "ep", "dp", "isl", "osl", "conc_total",
    "ttft_ms", "tpot_ms",
)  # fmt: skip
"""Columns that a file must have; the others are read where they are there."""

MODES = {"agg": Mode.AGGREGATED, "pd": Mode.PREFILL_DECODE, "afd": Mode.AFD}

ENGINES = {
    "vllm": Engine.VLLM,
    "sglang": Engine.SGLANG,
    "trtllm": Engine.TRTLLM,
    "dynamo-sglang": Engine.SGLANG,
    "sglang+dynamo": Engine.SGLANG,
}

PRECISIONS: dict[str, tuple[str, str | None]] = {
    "nvfp4": ("fp4", None),
    "mxfp4": ("fp4", None),
    "nvfp4 + fp8 attn/kv": ("fp4", "fp8"),
    "fp4, fp8 kv": ("fp4", "fp8"),
    "fp4, fp16 kv": ("fp4", "bf16"),
    "fp8 gemm": ("fp8", None),
    "bf16 attn + fp8": ("fp8", "bf16"),
    "w8a8": ("int8", None),
    # The rows that leave it out run at the speed of BF16 weights: 7.4 ms per step for 8 billion parameters on one H100,
    # 24.7 ms for 32 billion; FP8 rows of the same model and GPU take two thirds of that.
    "unstated": ("bf16", None),
}
"""Formats of weights and cache behind the words of the corpus; other words are names of formats themselves."""

MODEL_NAMES = {"deepseek-v3/r1": "deepseek-ai/DeepSeek-V3"}
"""Names that stand for several models of one architecture."""

UNIFORM_FROM = 0.8
UNIFORM_MARK = "U[0.8,1.0]"
"""Note of rows whose lengths are uniform in [0.8, 1] x nominal."""
INFERENCEX_SOURCES = ("InferenceX issue", "gap-analysis")
"""Sources without that note whose rows are InferenceX runs all the same: those of the gap analyses repeat rows of its
dumps, rounded (137 pairs, median ratio of TTFT and of TPOT 1.00000)."""

ACCEPTANCE = {"MTP steps1": (1, 1.85), "MTP steps2": (2, 2.55)}
"""Drafts and tokens per step behind the words of the corpus, where the source states them ("accept len 1.8-1.9 for
steps1, 2.4-2.7 for steps2")."""

WIDE_RECIPE_VERSION = "0.5.5.post2"
"""SGLang version whose P/D rows state EP 1 beside attention DP. Their recipes (github.com/NVIDIA/srt-slurm,
recipes/gb200-fp8) are plain TP 4 (low-latency.yaml) or EP as wide as DP (max-tpt.yaml)."""


@dataclass(frozen=True, order=True)
class Workers:
    """Workers of one kind.

    Args:
        role: mixed, prefill or decode.
        count: how many.
        tp: tensor-parallel ranks of attention.
        dp: attention data-parallel ranks of one worker.
        ep: expert-parallel ranks of one worker; 1 where experts are sharded over all its GPUs.
        pp: pipeline stages.
    """

    role: Role
    count: int
    tp: int
    dp: int
    ep: int
    pp: int = 1

    @property
    def gpus(self) -> int:
        """GPUs of one worker."""
        return self.tp * self.dp * self.pp

    @property
    def moe_tp(self) -> int:
        """GPUs that share one expert."""
        return self.tp * self.dp // self.ep

    @property
    def degrees(self) -> str:
        """Degrees of one worker in short words, `tp4 ep4`."""
        degrees = {"tp": self.tp, "dp": self.dp, "ep": self.ep, "pp": self.pp}
        return " ".join(f"{name}{value}" for name, value in degrees.items() if value > 1) or "tp1"


@dataclass(frozen=True)
class Measured:
    """What was measured; None where it was not.

    Args:
        ttft_ms: mean time to first token.
        tpot_ms: mean time per output token after the first.
        throughput_tok_s_per_gpu: output tokens/s per GPU (new prompt tokens/s of a prefill pool).
    """

    ttft_ms: float | None
    tpot_ms: float | None
    throughput_tok_s_per_gpu: float | None


@dataclass(frozen=True)
class Point:
    """One measured configuration.

    Args:
        line: line in the file.
        source: who published it.
        model: catalogue id.
        precision: weights and GEMMs.
        kv_cache_dtype: format of the cache.
        gpu: catalogue id.
        engine: the engine.
        mode: aggregated, P/D or AFD.
        phase: prefill or decode where one pool alone was measured.
        workers: kinds of workers.
        workload: lengths, with a closed loop where the concurrency is known.
        concurrency: requests that clients keep in flight over the deployment; None where it is not stated.
        requests: requests of the whole run, or None; the first `concurrency` of them arrive together.
        measured: what clients saw.
        notes: remarks, those of the reader included.
        speculative: speculative decoding where it ran.
        recipe: settings of the run that the row does not state.
    """

    line: int
    source: str
    model: str
    precision: Precision
    kv_cache_dtype: Precision
    gpu: str
    engine: Engine
    mode: Mode
    phase: Phase
    workers: tuple[Workers, ...]
    workload: Workload
    concurrency: int | None
    requests: int | None
    measured: Measured
    notes: str
    speculative: Speculative | None
    recipe: Recipe

    @property
    def n_gpus(self) -> int:
        """GPUs of the deployment."""
        return sum(workers.count * workers.gpus for workers in self.workers)

    @property
    def layout(self) -> str:
        """Roles and degrees of the workers without their numbers, so that one sweep has one layout."""
        return " + ".join(f"{workers.role.value} {workers.degrees}" for workers in self.workers)

    @property
    def slice(self) -> tuple[str, str, str, str]:
        """GPU, engine, model and mode."""
        return self.gpu, self.engine.value, self.model, self.mode.value

    @property
    def configuration(self) -> tuple[object, ...]:
        """All that repeats of one measurement share; versions, dates and sources may differ."""
        lengths = self.workload.input_tokens, self.workload.output_tokens
        return *self.slice, self.phase, self.workers, self.precision, lengths, self.concurrency, self.speculative


@dataclass(frozen=True)
class Refused:
    """A row that is no point.

    Args:
        line: line in the file.
        source: who published it.
        reason: what it lacks, or what is unknown.
    """

    line: int
    source: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """The rows of one file.

    Args:
        points: those that can be asked of the cost model.
        refused: the others.
    """

    points: tuple[Point, ...]
    refused: tuple[Refused, ...]

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return len(self.points) + len(self.refused)


def read(path: str | Path) -> Corpus:
    """Read a CSV file of points, compressed by gzip where its name ends in `.gz`.

    Raises:
        SpecError: the file cannot be read, is empty, lacks a column, or has a cell that is no number where one belongs;
            with file, line and column.
    """
    file = str(path)
    reader = csv.DictReader(io.StringIO(_text(Path(path), file)), strict=True)
    points: list[Point] = []
    refused: list[Refused] = []
    try:
        header = reader.fieldnames or []
        if not header:
            raise SpecError(f"is empty; accepted: CSV with the columns {', '.join(REQUIRED)}", file=file)
        missing = [column for column in REQUIRED if column not in header]
        if missing:
            accepted = f"a header with {', '.join(REQUIRED)}"
            raise SpecError(
                f"lacks {', '.join(missing)}; accepted: {accepted}",
                field=missing[0], file=file, line=1,
            )  # fmt: skip
        for cells in reader:
            if None in cells or None in cells.values():
                raise SpecError(f"must have {len(header)} cells, as its header", file=file, line=reader.line_num)
            row = _Row({name: text.strip() for name, text in cells.items()}, file, reader.line_num)
            try:
                points.append(_point(row))
            except _RefusedError as error:
                refused.append(Refused(row.line, row.text("source"), str(error)))
    except csv.Error as error:
        raise SpecError(f"is not CSV: {error}", file=file, line=reader.line_num) from None
    if not points and not refused:
        raise SpecError("has a header and no rows; accepted: one row for each measured point", file=file)
    return Corpus(tuple(points), tuple(refused))


def _text(path: Path, file: str) -> str:
    try:
        data = path.read_bytes() if len(file) < 4096 else b""
        if path.suffix == ".gz":
            with gzip.open(io.BytesIO(data)) as stream:
                data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SpecError("no such file; accepted: a CSV file of measured points, or one with .gz", file=file) from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise SpecError("is not a whole gzip file, as its name says", file=file) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise SpecError(f"cannot be read: {getattr(error, 'strerror', None) or error}", file=file) from None
    if len(data) > MAX_BYTES:
        raise SpecError(f"is larger than {MAX_BYTES // 1_000_000} MB, the most that is accepted", file=file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError("is not UTF-8 text; accepted: a CSV file", file=file, line=line) from None


class _RefusedError(Exception):
    """This row is no point; the message says why."""


@dataclass(frozen=True)
class _Row:
    """The cells of one row.

    Args:
        cells: text by column.
        file: the file, for errors.
        line: its line there.
    """

    cells: Mapping[str, str]
    file: str
    line: int

    def text(self, column: str) -> str:
        """Text of a cell; empty where the column is not there."""
        return self.cells.get(column, "")

    def number(self, column: str) -> float | None:
        """Number in a cell; None where it is empty, or says in words or by a bound what was not measured.

        Raises:
            SpecError: it is neither.
        """
        text = self.text(column)
        if not text or " " in text or text.startswith("<"):
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0.0 <= value < math.inf:
            raise SpecError(
                f"must be a number, empty, or say in words what is known, got {text[:100]!r}",
                field=column, file=self.file, line=self.line,
            )  # fmt: skip
        return value

    def measured(self, column: str) -> float | None:
        """Positive number in a cell, or None.

        Raises:
            SpecError: it is zero, or as in `number`.
        """
        value = self.number(column)
        if value == 0.0:
            raise SpecError(
                "must be greater than 0; leave empty what was not measured",
                field=column, file=self.file, line=self.line,
            )  # fmt: skip
        return value

    def whole(self, column: str) -> int | None:
        """Whole number in a cell, or None.

        Raises:
            SpecError: it has a fraction, or as in `number`.
        """
        value = self.number(column)
        if value is not None and not value.is_integer():
            raise SpecError(
                f"must be a whole number, got {self.text(column)!r}", field=column, file=self.file, line=self.line
            )
        return None if value is None else int(value)

    def degree(self, column: str, default: int | None = None) -> int:
        """A parallel degree or a number of workers; the corpus writes 0 for an EP that is not stated.

        Raises:
            _RefusedError: it is not stated and there is no default.
        """
        value = self.whole(column) or default
        if value is None:
            raise _RefusedError(f"{column} is not stated")
        return value


def _point(row: _Row) -> Point:
    mode = MODES.get(row.text("mode"))
    if mode is None:
        raise SpecError(
            f"must be one of {', '.join(MODES)}, got {row.text('mode')!r}", field="mode", file=row.file, line=row.line
        )
    phase = _phase(row.text("metric"))
    # Numbers are read before names are looked up, so that a malformed file is an error whatever the row is of.
    measured = Measured(row.measured("ttft_ms"), row.measured("tpot_ms"), row.measured("throughput_tok_s_per_gpu"))
    derived = row.measured("derived_out_tok_s_per_gpu")
    for column in ("n_gpus", "tp", "ep", "dp", "pp", "conc_total", "p_workers", "p_tp", "p_dp", "p_ep", "d_workers"):
        row.whole(column)
    for column in ("isl", "osl"):
        row.number(column)
    engine = ENGINES.get(row.text("framework"))
    if engine is None:
        raise _RefusedError(f"no traits of engine {row.text('framework')!r}")
    if mode is Mode.AFD:
        raise _RefusedError("AFD rows are scored as anchors")
    model, gpu = _model(row), _gpu(row)
    if phase is Phase.FULL and measured.throughput_tok_s_per_gpu is None:
        measured = replace(measured, throughput_tok_s_per_gpu=derived)
    if measured == Measured(None, None, None):
        raise _RefusedError("nothing was measured as a number")
    notes = row.text("notes")
    workers, corrected = _workers(row, mode, phase, engine, has_experts=_has_experts(model))
    point = Point(
        line=row.line,
        source=row.text("source"),
        model=model.id,
        precision=_precision(row)[0],
        kv_cache_dtype=_precision(row)[1],
        gpu=gpu,
        engine=engine,
        mode=mode,
        phase=phase,
        workers=workers,
        workload=_workload(row, phase),
        concurrency=_concurrency(row, phase, workers),
        requests=None,
        measured=measured,
        notes="; ".join(note for note in (notes, corrected) if note),
        speculative=_speculative(row.text("spec_decode")),
        recipe=Recipe(),
    )
    if point.concurrency is None:
        if phase is Phase.FULL:
            raise _RefusedError("the concurrency is not stated")
        return point
    arrival = Arrival(process=ArrivalProcess.CLOSED_LOOP, concurrency=point.concurrency)
    point = replace(point, workload=point.workload.model_copy(update={"arrival": arrival}))
    return _as_run(point, row) if _is_inferencex(row) else point


def _as_run(point: Point, row: _Row) -> Point:
    """An InferenceX point with what its recipe sets."""
    clients = point.concurrency or 0
    point = replace(point, requests=REQUESTS_PER_SLOT * clients)
    if point.mode is not Mode.AGGREGATED:
        return point
    (workers,) = point.workers
    run = Run(workers.tp, workers.dp, row.whole("isl") or 0, row.whole("osl") or 0, clients)
    recipe = recipe_of((point.engine, point.model, point.precision), point.gpu, run)
    cache = Precision.BF16 if recipe.default_cache else point.kv_cache_dtype
    return replace(point, recipe=recipe, kv_cache_dtype=cache)


def _phase(metric: str) -> Phase:
    """Which pool was measured: `in ...` counts prompt tokens of a prefill pool, `out (decode ...` a decode pool's.

    Every other metric is of the whole deployment.
    """
    if metric.startswith("in ") or metric == "in":
        return Phase.PREFILL
    return Phase.DECODE if metric.startswith("out") and "decode" in metric else Phase.FULL


def _model(row: _Row) -> ModelSpec:
    name = row.text("model")
    try:
        return catalog.model(MODEL_NAMES.get(name.lower(), name))
    except SpecError:
        raise _RefusedError(f"unknown model {name!r}") from None


def _gpu(row: _Row) -> str:
    name = row.text("gpu")
    try:
        return catalog.gpu(name.replace(" ", "-")).id
    except SpecError:
        raise _RefusedError(f"unknown gpu {name!r}") from None


def _has_experts(model: ModelSpec) -> bool:
    return any(isinstance(group.ffn, MoeFfn) for group in model.layers)


def _precision(row: _Row) -> tuple[Precision, Precision]:
    """Formats of the weights and of the cache; the cache of narrow floating-point weights is FP8 unless stated."""
    text = row.text("precision").lower()
    weights, cache = PRECISIONS.get(text, (text, None))
    try:
        precision = Precision(weights)
    except ValueError:
        raise _RefusedError(f"unknown precision {text!r}") from None
    if cache is not None:
        return precision, Precision(cache)
    return precision, default_cache(precision)


def _workers(
    row: _Row, mode: Mode, phase: Phase, engine: Engine, *, has_experts: bool
) -> tuple[tuple[Workers, ...], str]:
    """Workers of a row, and a note where what it says was corrected."""
    stated = row.whole("n_gpus")
    if mode is Mode.AGGREGATED or phase is not Phase.FULL:
        role = {Phase.FULL: Role.MIXED, Phase.PREFILL: Role.PREFILL, Phase.DECODE: Role.DECODE}[phase]
        one = _worker(role, 1, row, "", has_experts=has_experts)
        count, rest = divmod(stated or one.gpus, one.gpus)
        if rest:
            raise _RefusedError(f"n_gpus {stated} is no multiple of tp x dp x pp = {one.gpus}")
        return (replace(one, count=count),), ""
    sides = [
        _worker(role, row.degree(f"{prefix}workers"), row, prefix, has_experts=has_experts)
        for role, prefix in ((Role.PREFILL, "p_"), (Role.DECODE, "d_"))
    ]
    total = sum(side.count * side.gpus for side in sides)
    if stated is not None and stated != total:
        raise _RefusedError(f"n_gpus {stated} is not the {total} of its workers")
    if engine is not Engine.SGLANG or row.text("version") != WIDE_RECIPE_VERSION:
        return tuple(sides), ""
    wide = sides[1].gpus > 4
    fixed = [
        side if side.dp == 1 or side.ep > 1
        else replace(side, ep=side.dp) if wide
        else replace(side, tp=side.dp, dp=1)
        for side in sides
    ]  # fmt: skip
    return tuple(fixed), "" if fixed == sides else "degrees as its recipe has them"


def _worker(role: Role, count: int, row: _Row, prefix: str, *, has_experts: bool) -> Workers:
    tp, dp = row.degree(f"{prefix}tp"), row.degree(f"{prefix}dp", 1 if prefix else None)
    ep = row.degree(f"{prefix}ep", 1) if has_experts else 1
    if (tp * dp) % ep:
        raise _RefusedError(f"ep {ep} does not divide tp x dp = {tp * dp}")
    return Workers(role, count, tp, dp, ep, row.degree("pp", 1))


def _is_inferencex(row: _Row) -> bool:
    return UNIFORM_MARK in row.text("notes") or any(mark in row.text("source") for mark in INFERENCEX_SOURCES)


def _workload(row: _Row, phase: Phase) -> Workload:
    """Lengths of the requests; a pool alone lacks the other phase's, which then plays no part."""
    given = row.number("isl"), row.number("osl")
    if given[0] is None or not given[0]:
        raise _RefusedError("the input length is not stated as a number")
    if given[1] is None and phase is Phase.FULL:
        raise _RefusedError("the output length is not stated as a number")
    uniform = _is_inferencex(row)
    output = given[1] or (1.0 if phase is Phase.PREFILL else 2.0)
    if row.text("prefix") not in ("", "0"):
        raise _RefusedError("the cached prefix is not stated as a number of tokens")
    return Workload(input_tokens=_length(given[0], uniform), output_tokens=_length(output, uniform))


def _length(nominal: float, uniform: bool) -> int | MeanLength:
    """A fixed length, or a uniform one in [0.8, 1] x nominal: mean 0.9, standard deviation 0.2 / sqrt(12)."""
    if uniform:
        mean = (1.0 + UNIFORM_FROM) / 2.0
        return MeanLength(mean=mean * nominal, cv=(1.0 - UNIFORM_FROM) / math.sqrt(12.0) / mean)
    return int(nominal) if nominal.is_integer() else MeanLength(mean=nominal, cv=0.0)


def _concurrency(row: _Row, phase: Phase, workers: tuple[Workers, ...]) -> int | None:
    """Requests in flight over the deployment: as stated, else what the decode workers' batches hold.

    For a pool alone, the stated batch per GPU x its GPUs.
    """
    stated = row.whole("conc_total")
    if stated:
        return stated
    if phase is not Phase.FULL:
        batch = row.number("concurrency_or_batch_per_gpu")
        return round(batch * sum(side.count * side.gpus for side in workers)) if batch else None
    batch = row.number("d_batch")
    decode = workers[-1]
    return round(batch * decode.count * decode.dp) if batch else None


def _speculative(text: str) -> Speculative | None:
    """Speculative decoding of a row; the corpus writes none, none?, or unknown where it did not run.

    Raises:
        _RefusedError: it ran, and how many drafts were accepted is not stated.
    """
    if not text or text.startswith("none") or text == "unknown" or "not stated" in text:
        return None
    if text not in ACCEPTANCE:
        raise _RefusedError("the acceptance of speculative decoding is not stated")
    drafts, accepted = ACCEPTANCE[text]
    return Speculative(draft_tokens=drafts, accept_length=accepted)
