"""Episodes with exact truth, generated: random tables, things, robots and cameras, drawn by MuJoCo.

Everything follows from a seed: textures.py paints, things.py shapes what stands on the table, arms.py the robot,
skills.py what it does, world.py puts them together, drawing.py renders, camera_effects.py spoils the pictures, truth.py
derives tracks and centroids, episodes.py writes the files.
"""
