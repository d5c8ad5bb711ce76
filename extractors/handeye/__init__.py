"""The robot calibrates the camera: points that ride on the hand, seen by a camera that stands still, or the reverse.

problem.py      the values: clips in, calibration out
path.py         the hand's pose at any moment
project.py      one equation: a point, a pose, a camera, a pixel; and its derivatives
adjust.py       robust bundle adjustment with the points eliminated
start.py        which tracks ride on the hand, and a camera to start from
judge.py        sigmas, and what cannot be observed
camera.py       the solver that puts these together
known.py        one clip before a camera that is known: which tracks ride, and where their points are
held.py         points of a held object, and its pose through the clip
align.py        relative depth into metres at points of known depth
"""
