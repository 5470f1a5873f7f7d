"""Estimates of the disk, hours and money of a run, from measured coefficients, before the run is started."""
