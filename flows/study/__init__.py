"""The study: which cue helps a world model, told by training one with each of them on the same packets.

plan.py lists the runs and their keys, world_model.py is the network, conditions.py the heads, training.py trains one
run, evaluation.py measures it, comparison.py sets the conditions beside each other, probes.py looks at what a model
learned, report.py draws the page. Prefect's flow of it is flows/orchestration/study_flow.py.
"""
