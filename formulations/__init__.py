"""The mathematics: one file per constraint family, assembled into named formulations."""
