"""Metrics against ground truth, used by benchmarks alone."""
