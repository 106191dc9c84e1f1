"""HTML and SVG elements: every text is escaped where it enters."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

VOID = frozenset({"meta", "br", "hr", "img", "rect", "line", "circle", "polyline", "path"})
"""Elements without content."""


@dataclass(frozen=True)
class Markup:
    """Text that is markup already."""

    text: str


def tag(name: str, /, *children: Markup | str | None, **attributes: str | float | None) -> Markup:
    """One element. `class_` stands for `class`, other underscores for hyphens; None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_value(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(*children).text}</{name}>")


def join(*children: Markup | str | None) -> Markup:
    """Elements and texts one after the other."""
    return Markup(
        "".join(child.text if isinstance(child, Markup) else escape(child) for child in children if child is not None)
    )


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"
