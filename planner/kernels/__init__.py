"""Measured kernel tables: distilled from published measurements or from the user's own GPU."""
