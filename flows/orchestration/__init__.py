"""The same work as Prefect flows: the only room that imports Prefect."""
