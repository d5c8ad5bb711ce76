"""The work, without Prefect, in the order in which it happens."""
