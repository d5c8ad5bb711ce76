"""Robot datasets, each read lazily, one episode at a time."""
