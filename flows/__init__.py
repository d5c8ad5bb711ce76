"""The outside world: sources, configuration, the stage engine, Prefect, the command line."""
