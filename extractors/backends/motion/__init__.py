"""Follows a thing that rests and is then moved, and draws its border; fixed cameras (nano/segmenter.py is its face)."""
