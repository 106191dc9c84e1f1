"""Launch files of a plan, for engines, orchestrators and provisioners."""

from planner.render.render import render
from planner.render.target import Target

__all__ = ["Target", "render"]
