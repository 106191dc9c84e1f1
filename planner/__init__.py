"""The work: cost model, options, plan, certificate, explanation, and the doors to it.

`from planner import plan, compare, explain, alternatives, predict` gives the Python door (`planner.api`,
`planner.prediction`). The functions are looked up when they are first asked for, so that importing the package costs
nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.api import alternatives, compare, explain, plan
    from planner.prediction import predict

__all__ = ["alternatives", "compare", "explain", "plan", "predict"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("planner.prediction" if name == "predict" else "planner.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
