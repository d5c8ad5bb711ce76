"""Training of the networks that cuepack brings along, on scenes that it generates."""
