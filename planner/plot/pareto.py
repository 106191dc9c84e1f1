"""The Pareto curves of a comparison as a picture."""

import importlib.util
from pathlib import Path

from specs.comparison import Comparison
from specs.errors import SpecError
from specs.scenario import Scenario
from specs.service import Mode

LIBRARIES = {".svg": "matplotlib", ".png": "matplotlib", ".html": "plotly"}
COLOURS = {
    Mode.AGGREGATED: "#0072B2",
    Mode.PREFILL_DECODE: "#E69F00",
    Mode.AFD: "#009E73",
    Mode.PREFILL_DECODE_AFD: "#CC79A7",
}
"""Colours that the colour-blind tell apart (Okabe and Ito, 2008)."""
SLO_COLOUR = "#555555"
X_LABEL = "Interactivity [output tokens/s per user]"
Y_LABEL = "Efficiency [output tokens/s per GPU]"


def check_format(path: Path) -> None:
    """Refuse a picture that could not be drawn.

    Raises:
        SpecError: no such format, or the library that draws it is not installed.

    """
    library = LIBRARIES.get(path.suffix.lower())
    if library is None:
        raise SpecError(f"must end in {', '.join(LIBRARIES)}, got {str(path)!r}", field="--plot")
    if importlib.util.find_spec(library) is None:
        raise SpecError(f"{path.suffix} needs {library}: pip install 'cleave[report]'", field="--plot")


def pareto_figure(comparison: Comparison, scenario: Scenario, suffix: str) -> bytes:
    """Draw the curves of every mode that has one.

    Args:
        comparison: what is drawn.
        scenario: where it came from, for the title and the SLO.
        suffix: `.svg`, `.png` or `.html`.

    Returns:
        The content of the file.

    """
    if suffix.lower() == ".html":
        from planner.plot.pareto_html import draw

        return draw(comparison, scenario)
    from planner.plot.pareto_image import draw as draw_image

    return draw_image(comparison, scenario, suffix.lower().removeprefix("."))


def title(scenario: Scenario) -> str:
    """Write what the picture is of: services and GPUs."""
    services = ", ".join(dict.fromkeys(service.model.rsplit("/", 1)[-1] for service in scenario.services[:3]))
    more = f" and {len(scenario.services) - 3} more" if len(scenario.services) > 3 else ""
    gpus = " + ".join(f"{pool.count} {pool.gpu}" for pool in scenario.cluster.pools)
    return f"{services}{more} on {gpus}"
