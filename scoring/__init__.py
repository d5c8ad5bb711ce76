"""Numbers about a clip, and why it was kept."""
