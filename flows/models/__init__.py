"""Networks: their weights, how they are built from the configuration, and whose turn it is on a device."""
