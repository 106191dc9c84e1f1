"""Build of the shipped kernel tables from published measurements; needs the extra `measured`."""
