"""Measures a primary and a replica as real processes: throughput, latency, lag, CPU, memory.

`python -m bench` runs everything and writes `bench/results/latest.{json,md}`;
`bench/README.md` says how each figure is made and how to read it.
"""
