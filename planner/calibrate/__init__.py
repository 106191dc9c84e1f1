"""Calibration: measure on the user's own GPU the operators that a model needs.

`needs` says what to measure, `run` measures it, `table` is the file that it is written to, and
`planner.kernels.calibration` reads that file for planning. `run` and what it imports need the standard library, NumPy
and PyTorch only, so that a work list can be carried to a machine that has nothing else.
"""
