"""Event simulation: what clients see of a run, request by request."""
