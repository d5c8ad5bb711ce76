"""The packets of an output directory, shown in a browser."""
