"""A line on standard error that says what goes on, once it takes more than a second."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

Report = Callable[[str, float | None, float | None], None]

DELAY_S = 1.0
BAR_WIDTH = 20


def _ignore(stage: str, incumbent: float | None, bound: float | None) -> None:
    """Report nothing."""


@contextmanager
def progress(time_limit_s: float) -> Iterator[Report]:
    """Give the function that the planner reports to: stage, incumbent and bound.

    Nothing is drawn where standard error is no terminal, nor in the first second.
    """
    if not sys.stderr.isatty():
        yield _ignore
        return
    line = _Line(time_limit_s)
    timer = threading.Timer(DELAY_S, line.start)
    timer.daemon = True
    timer.start()
    try:
        yield line.report
    finally:
        timer.cancel()
        line.stop()


class _Line:
    """The line, redrawn by a thread of its own."""

    def __init__(self, time_limit_s: float) -> None:
        self._time_limit_s = time_limit_s
        self._start_s = time.monotonic()
        self._state: tuple[str, float | None, float | None] = ("starting", None, None)
        self._live: Live | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def report(self, stage: str, incumbent: float | None, bound: float | None) -> None:
        self._state = (stage, incumbent, bound)

    def start(self) -> None:
        from rich.console import Console
        from rich.live import Live

        with self._lock:
            if self._stopped:
                return
            self._live = Live(
                get_renderable=self._draw,
                console=Console(file=sys.stderr),
                transient=True,
                refresh_per_second=8,
                redirect_stdout=False,
            )
            self._live.start()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._live is not None:
                self._live.stop()

    def _draw(self) -> "RenderableType":
        from rich.spinner import Spinner

        stage, incumbent, bound = self._state
        return Spinner("dots", status(stage, incumbent, bound, time.monotonic() - self._start_s, self._time_limit_s))


def status(stage: str, incumbent: float | None, bound: float | None, elapsed_s: float, time_limit_s: float) -> str:
    """Write the line: a bar of the time used, the stage, and how far the plan is proven."""
    from planner.view.figures import number, percent

    filled = round(BAR_WIDTH * min(1.0, elapsed_s / time_limit_s))
    parts = [f"{'━' * filled}{'╌' * (BAR_WIDTH - filled)} {elapsed_s:.0f} s of {number(time_limit_s)}", stage]
    if incumbent is not None:
        parts.append(f"plan {number(incumbent)}")
    if bound is not None:
        parts.append(f"bound {number(bound)}")
    if incumbent and bound is not None:
        parts.append(f"gap {percent(abs(bound - incumbent) / abs(incumbent))}")
    return "  ".join(parts)
