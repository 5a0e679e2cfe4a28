"""Benchmarks: what batchmail costs, beside what the bare parts cost, in one run.  `python -m bench`."""
