"""Services on pools, as the tests of the cost model need them."""

from typing import Any

import pytest

from planner.costs.site import Site
from specs.scenario import Pool, resolve_pool
from specs.service import KernelSource, Service

both_kernels = pytest.mark.parametrize("analytic", [True, False], ids=["analytic", "measured"])
"""For laws that hold whatever the kernel times come from."""


def make_site(
    gpu: str = "h100",
    model: str = "deepseek-ai/DeepSeek-V3",
    *,
    tokens: tuple[Any, Any, int] = (2000, 500, 0),
    count: int = 512,
    pool: dict[str, Any] | None = None,
    workload: dict[str, Any] | None = None,
    kernel_slowdown: float = 1.0,
    network_slowdown: float = 1.0,
    analytic: bool = False,
    **service: Any,
) -> Site:
    """A site; `tokens` are input, output and prefix. `analytic`: rooflines and laws alone, without measured tables."""
    fields = {"input_tokens": tokens[0], "output_tokens": tokens[1], "prefix_tokens": tokens[2], **(workload or {})}
    described = {"name": "s", "model": model, "workload": fields, "slo": {"ttft_ms": 1e5, "tpot_ms": 1e4}}
    described["kernels"] = KernelSource.ANALYTIC if analytic else KernelSource.MEASURED
    return Site.of(
        Service.model_validate({**described, **service}),
        resolve_pool(Pool.model_validate({"name": "p", "gpu": gpu, "count": count, **(pool or {})})),
        kernel_slowdown=kernel_slowdown,
        network_slowdown=network_slowdown,
    )
