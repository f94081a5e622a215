"""Benchmarks: `python -m experiments.benchmark --suite=NAME`, a file each."""
