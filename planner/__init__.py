"""The work: cost model, options, plan, certificate, explanation, and the doors to it.

`from planner import plan, compare, explain, alternatives` gives the Python door (`planner.api`). The functions are
looked up when they are first asked for, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.api import alternatives, compare, explain, plan

__all__ = ["alternatives", "compare", "explain", "plan"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from planner import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
