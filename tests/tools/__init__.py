"""Programs that made data of the project."""
