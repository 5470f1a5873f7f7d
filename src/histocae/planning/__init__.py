"""What a run will take: disk, hours and money, from measured coefficients, before it is started."""
