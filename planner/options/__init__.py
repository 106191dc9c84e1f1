"""Options: every way to serve that meets memory and SLO, as arrays."""
