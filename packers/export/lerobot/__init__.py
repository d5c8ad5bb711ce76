"""A LeRobotDataset v3.0 folder made of packets."""
