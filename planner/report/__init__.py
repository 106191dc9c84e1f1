"""A plan as one page that a manager can read."""

from planner.report.page import report_html

__all__ = ["report_html"]
