"""Where the figures of plans and predictions come from, operator by operator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

from planner.costs.linear import Watch
from planner.costs.operators import DecodeAttention, Elementwise, Gemm, GroupedGemm, Operator, PrefillAttention
from planner.costs.site import Site
from planner.kernels.answer import Answer
from planner.kernels.collectives import ALL_REDUCE
from planner.kernels.library import SAME_DIE, MeasuredKernels
from planner.kernels.user_table import UserKernels
from specs.model import Precision
from specs.plan import OperatorKind, OperatorProvenance, OperatorSource, Provenance
from specs.service import Engine

KINDS: dict[type[Operator], OperatorKind] = {
    Gemm: OperatorKind.GEMM,
    GroupedGemm: OperatorKind.EXPERTS,
    DecodeAttention: OperatorKind.DECODE_ATTENTION,
    PrefillAttention: OperatorKind.PREFILL_ATTENTION,
    Elementwise: OperatorKind.ELEMENTWISE,
}

NAMES: dict[OperatorKind, str] = {
    OperatorKind.GEMM: "GEMM",
    OperatorKind.EXPERTS: "experts",
    OperatorKind.DECODE_ATTENTION: "decode attention",
    OperatorKind.PREFILL_ATTENTION: "prefill attention",
    OperatorKind.ELEMENTWISE: "elementwise",
    OperatorKind.ALL_REDUCE: "all-reduce",
    OperatorKind.EXCHANGE: "exchange",
}

SLOW_CACHE = 1.1
"""Decode attention on a narrow cache that takes this many times as long as on a BF16 one is worth a note."""

ATTENTION = (OperatorKind.DECODE_ATTENTION, OperatorKind.PREFILL_ATTENTION)


def provenance(
    sites: Sequence[Site],
    *,
    packages: Sequence[str],
    formulation: str | None = None,
    seconds: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Provenance:
    """The provenance of figures.

    Args:
        sites: what was computed on; all that they were asked for counts (`planner.costs.site.Site.traced` makes sites
            that are asked by the layouts in question alone).
        packages: those whose versions matter.
        formulation: of the program, where one was solved.
        seconds: by stage.
        notes: what the user should know.
    """
    operators = operators_of(sites)
    return Provenance(
        kernels=words(operators),
        operators=operators,
        linearisation_error=max((site.kernels.largest_error for site in sites), default=0.0),
        formulation=formulation,
        versions={name: version(name) for name in packages},
        seconds=dict(seconds or {}),
        notes=(*notes, *_slow_caches(sites)),
    )


def _slow_caches(sites: Iterable[Site]) -> list[str]:
    """What a wider KV cache would speed up: a narrow one halves the bytes, but its measured kernels may be slower."""
    notes: dict[str, None] = {}
    for site in sites:
        for operator in tuple(site.kernels.used):
            watch = site.kernels.watches.get(operator)
            if not isinstance(operator, DecodeAttention) or operator.kv_dtype is Precision.BF16 or not watch:
                continue
            both = (operator, replace(operator, kv_dtype=Precision.BF16))
            # Asked on the side, so that the provenance lists neither a second time.
            narrow_ms, wide_ms = (float(site.kernels.traced().time_ms(each)(watch.largest)) for each in both)
            if narrow_ms > SLOW_CACHE * wide_ms:
                notes[
                    f"decode attention of {site.model.id} on {site.pool.name} takes {narrow_ms / wide_ms:.1f} times as "
                    f"long with the {operator.kv_dtype.value} cache as with a bf16 one; try kv_cache_dtype: bf16"
                ] = None
    return list(notes)


@dataclass(frozen=True)
class _Asked:
    """One operator, or one collective, that was asked for.

    Args:
        kind: of operator.
        answer: what was measured; None where the analytic model answered.
        source: where its time comes from.
        calibration: name of the user's file.
        gpu: GPU type that was measured, where it is not the pool's own.
        largest: tokens, sequences, prompts or bytes at which its time was asked for, where that was watched.
    """

    kind: OperatorKind
    answer: Answer | None
    source: OperatorSource
    calibration: str | None = None
    gpu: str | None = None
    largest: float = 0.0

    @property
    def outside(self) -> float:
        """Factor by which the furthest query lies beyond what was measured, in shape or size; 1.0 within."""
        return max(self.answer.outside, self.largest / self.answer.last) if self.answer else 1.0

    @property
    def alike(self) -> tuple[object, ...]:
        """What those have in common that are counted together."""
        origin = self.answer.origin if self.answer else None
        measured = (origin.framework, origin.version) if origin else ()
        return self.kind, self.source, self.calibration, self.gpu, *measured


def operators_of(sites: Iterable[Site]) -> tuple[OperatorProvenance, ...]:
    """What answered the operators that the sites were asked for, by kind and source."""
    groups: dict[tuple[object, ...], list[_Asked]] = {}
    for site in sites:
        for asked in _asked(site):
            groups.setdefault(asked.alike, []).append(asked)
    entries = [_entry(group) for group in groups.values()]
    kinds, sources = list(OperatorKind), list(OperatorSource)
    entries.sort(key=lambda each: (kinds.index(each.operator), sources.index(each.source), str(each.framework)))
    return tuple(entries)


def _asked(site: Site) -> Iterator[_Asked]:
    files = {
        origin: library.file
        for library in site.kernels.libraries
        if isinstance(library, UserKernels)
        for origin in library.origins
    }
    other_gpu = SAME_DIE.get(site.pool.gpu.id)
    foreign = {engine.value for engine in Engine if engine is not site.service.engine}

    def asked(kind: OperatorKind, answer: Answer | None, watch: Watch | None, *, borrowed: bool) -> _Asked:
        if answer is None:
            return _Asked(kind, None, OperatorSource.ANALYTIC)
        largest = watch.largest if watch else 0.0
        if answer.origin in files:
            return _Asked(kind, answer, OperatorSource.CALIBRATION, files[answer.origin], largest=largest)
        # Tables of an engine's file may themselves stand in for what was not, or badly, measured behind it.
        borrowed = borrowed or answer.origin.framework in foreign
        source = OperatorSource.BORROWED if borrowed else OperatorSource.MEASURED
        return _Asked(kind, answer, source, gpu=other_gpu, largest=largest)

    for operator, library in site.kernels.used.items():
        used = library.used[operator] if isinstance(library, UserKernels | MeasuredKernels) else None
        answer, borrowed = (used.answer, used.borrowed) if used else (None, False)
        yield asked(KINDS[type(operator)], answer, site.kernels.watches.get(operator), borrowed=borrowed)
    for (name, key), answer in site.fabric.asked.items():
        kind = OperatorKind.ALL_REDUCE if name == ALL_REDUCE else OperatorKind.EXCHANGE
        yield asked(kind, answer, site.fabric.watches.get((name, key)), borrowed=False)


def _entry(group: Sequence[_Asked]) -> OperatorProvenance:
    first = group[0]
    answers = [each.answer for each in group if each.answer is not None]
    origin = answers[0].origin if answers else None
    outside = [round(float(each.outside), 4) for each in group]
    return OperatorProvenance(
        operator=first.kind,
        source=first.source,
        calibration=first.calibration,
        gpu=first.gpu,
        framework=origin.framework if origin else None,
        version=origin.version if origin else None,
        error_p95=max((max(answer.origin.error_p95, answer.origin.rising_p95) for answer in answers), default=None),
        outside=max(outside, default=1.0),
        count=len(group),
        count_outside=sum(factor > 1.0 for factor in outside),
    )


def words(operators: Sequence[OperatorProvenance]) -> str:
    """The same in one line: `measured (vllm 0.24.0), attention borrowed from sglang 0.5.14, elementwise analytic`."""
    if not operators:
        return "none asked"
    if all(each.source is OperatorSource.ANALYTIC for each in operators):
        return "analytic"
    parts: dict[str, list[OperatorKind]] = {}
    measured: dict[str, None] = {}
    for source in OperatorSource:
        for each in operators:
            if each.source is not source:
                continue
            whose = f"{each.framework} {each.version}"
            if source is OperatorSource.MEASURED:
                measured[whose] = None
                continue
            where = f" on {each.gpu}" if each.gpu else ""
            text = {
                OperatorSource.CALIBRATION: f"from calibration {each.calibration}",
                OperatorSource.BORROWED: f"borrowed from {whose}{where}",
                OperatorSource.ANALYTIC: "analytic",
            }[source]
            parts.setdefault(text, []).append(each.operator)
    said = [f"measured ({', '.join(measured)})"] if measured else []
    said += [f"{_kinds(kinds)} {text}" for text, kinds in parts.items()]
    outside = sum(each.count_outside for each in operators)
    if outside:
        furthest = max(each.outside for each in operators)
        said.append(f"{outside} operator{'s' * (outside > 1)} up to {furthest:.3g}x outside what was measured")
    return ", ".join(said)


def _kinds(kinds: Sequence[OperatorKind]) -> str:
    """Kinds of operators in words."""
    names: dict[str, None] = {}
    for kind in kinds:
        both = kind in ATTENTION and all(each in kinds for each in ATTENTION)
        names["attention" if both else NAMES[kind]] = None
    return " and ".join([", ".join(list(names)[:-1]), list(names)[-1]]) if len(names) > 1 else next(iter(names))
