"""The robot calibrates the camera: points that ride on the hand, seen by a camera that stands still, or the reverse.

problem.py      the values: clips in, calibration out
path.py         the hand's pose at any moment
project.py      one equation: a point, a pose, a camera, a pixel; and its derivatives
descent.py      to the most probable points and what they share, the points eliminated
adjust.py       robust bundle adjustment: one camera, many points
start.py        which tracks ride on the hand, and a camera to start from
search.py       from many starts to the camera, its riders and its rivals
judge.py        sigmas, and what cannot be observed
camera.py       the solver that puts these together
known.py        one clip before a camera that is known: which tracks ride, and where their points are
sight.py        where a known camera should see points that ride, and how they look from there
pooled.py       one camera of many clips
rests.py        where a held object stood before its grasp and after its release
body.py         points of a held object as those of one surface, from hold and rests
held.py         points of a held object, and its pose through the clip
align.py        relative depth into metres at points of known depth
"""
