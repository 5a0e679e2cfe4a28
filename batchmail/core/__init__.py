"""Values and the bytes of values: no files, sockets, clock, environment or randomness."""
