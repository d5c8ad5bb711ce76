"""The output directory: what it holds, and who may write what in it."""
