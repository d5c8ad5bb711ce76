"""Pixels in, signals out: masks, depth, tracks, centroids, shape. No files, no datasets, no Prefect."""
