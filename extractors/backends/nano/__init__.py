"""A small network of cuepack's own, trained on generated scenes: masks and depth (docs/nano.md)."""
