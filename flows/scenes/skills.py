"""What a robot does with a thing: way-points of the hand, and what moves with it in between.

The thing is carried rigidly by the hand from the moment of the grasp to that of the release, so poses and contact are
exact by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from flows.scenes.parts import Part
from flows.scenes.poses import Floats, pose, turn
from flows.scenes.textures import Rng
from flows.scenes.things import Thing


@dataclass(frozen=True, slots=True)
class Waypoint:
    """Where the hand is, in its frame of arms.py, and when.

    Attributes:
        xyz: of the fingertips, metres in the world.
        yaw, tilt, roll: turn about z, then y, then x, rad; tilt 0 is a hand that points down.
        opening: of the fingers, metres.
        seconds: from the way-point before.
        holds: on the way here the thing goes with the hand.
        touches: on the way here the robot touches the thing.
    """

    xyz: tuple[float, float, float]
    yaw: float
    tilt: float
    roll: float
    opening: float
    seconds: float = 0.0
    holds: bool = False
    touches: bool = False

    @property
    def hand(self) -> Floats:
        """(4, 4) hand to world."""
        return pose(turn(2, self.yaw) @ turn(1, self.tilt) @ turn(0, self.roll), self.xyz)


@dataclass(slots=True, eq=False)
class Task:
    """What a skill is given.

    Attributes:
        thing, at: the thing, and its (4, 4) pose.
        goal: (3,) where its foot may be put, metres.
        open_m: widest opening of the fingers, metres.
        speed: of the hand, metres a second.
        yaw, tilt: of the hand, rad.
        part: how a drawer, door, lid or lever moves.
    """

    thing: Thing
    at: Floats
    goal: Floats
    open_m: float
    speed: float
    yaw: float
    tilt: float
    part: Part | None = None
    path: list[Waypoint] = field(default_factory=list)

    def begin(self, rng: Rng) -> None:
        """The hand above the table, somewhere."""
        start = (rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25), rng.uniform(0.1, 0.35))
        self.path = [Waypoint(start, self.yaw, self.tilt, 0.0, self.open_m * rng.uniform(0.5, 1.0))]
        if rng.random() < 0.6:
            self.go(seconds=rng.uniform(0.1, 0.8))

    def go(self, xyz: Floats | None = None, **changes: float) -> None:
        """To `xyz` at the task's speed; `changes` are fields of the way-point."""
        last = self.path[-1]
        target = last.xyz if xyz is None else (float(xyz[0]), float(xyz[1]), float(xyz[2]))
        seconds = max(float(np.linalg.norm(np.subtract(target, last.xyz))) / self.speed, 0.15)
        self.path.append(replace(last, **{"xyz": target, "seconds": seconds, **changes}))  # type: ignore[arg-type]

    def grasp_point(self) -> Floats:
        """(3,) where the fingertips close, metres in the world."""
        return above(self.at[:3, 3], min(self.thing.grasp[0], self.thing.height))


def above(point: Floats, height: float) -> Floats:
    """(3,) `height` metres over `point`."""
    return np.asarray(point + np.array([0.0, 0.0, height]))


def pick_place(rng: Rng, task: Task) -> None:
    """Up, across, perhaps turned, and down on the goal."""
    _take(rng, task)
    lift = task.goal[2] + rng.uniform(0.05, 0.18)
    at_hand = np.array(task.path[-1].xyz)
    held = task.path[-1].opening
    grip = task.grasp_point()[2] - task.at[2, 3]
    task.go(above(at_hand, lift), holds=True, touches=True)
    if rng.random() < 0.3:  # pours, shows, flips halfway
        task.go(above(task.goal, lift + grip + 0.05), roll=rng.uniform(-1.2, 1.2), yaw=task.yaw + rng.normal(0, 0.5))
    yaw = task.path[-1].yaw + rng.normal(0, 0.4)
    task.go(above(task.goal, lift + grip), yaw=yaw, roll=0.0)
    if rng.random() < 0.85:
        task.go(above(task.goal, grip))
        task.go(seconds=rng.uniform(0.2, 0.6), opening=min(held + 0.04, task.open_m), holds=False)
        _leave(rng, task)


def push(rng: Rng, task: Task) -> None:
    """From beside it, with closed fingers, along the table."""
    _drag(rng, task, beside=True)


def pull(rng: Rng, task: Task) -> None:
    """From above, pressed down, along the table."""
    _drag(rng, task, beside=False)


def opens(rng: Rng, task: Task) -> None:
    """A drawer, door, lid or lever by its handle: opened, closed, or there and back."""
    part, closed = task.part, task.at
    assert part is not None
    shares = [0.0, rng.uniform(0.5, 1.0)][:: 1 if rng.random() < 0.65 else -1]
    if rng.random() < 0.2:
        shares.append(shares[0])
    task.at = closed @ part.opened(shares[0])
    if part.axis[0]:  # the hand rolls with the lid, about its hinge
        task.yaw, task.tilt = float(np.arctan2(closed[1, 0], closed[0, 0])), 0.0
        task.path = [replace(each, yaw=task.yaw, tilt=0.0) for each in task.path]
    elif part.hinge is None or rng.random() < 0.5:
        task.yaw += rng.normal(0, 0.1)
    roll = shares[0] * part.most * part.axis[0]
    grip = (task.at @ [*part.handle, 1])[:3]
    away = task.at[:3, 2] * rng.uniform(0.06, 0.15)
    task.go(grip + away, yaw=task.yaw, roll=roll, opening=task.open_m)
    task.go(grip)
    task.go(opening=0.015, seconds=rng.uniform(0.2, 0.6), touches=True)
    for begin, end in pairwise(shares):
        _swing(task, part, closed, begin, end)
    task.go(seconds=0.3, opening=task.open_m, holds=False)
    at_hand = task.path[-1]
    task.go(np.array(at_hand.xyz) + at_hand.hand[:3, 2] * rng.uniform(0.05, 0.1), touches=False, holds=False)
    _leave(rng, task)


def idle(rng: Rng, task: Task) -> None:
    """Moves about and touches nothing."""
    for _ in range(int(rng.integers(2, 5))):
        task.go(np.array([*rng.uniform(-0.25, 0.25, 2), rng.uniform(0.12, 0.35)]), opening=task.open_m * rng.random())


def turns(rng: Rng, task: Task) -> None:
    """Takes the thing, shows it from several sides, and puts it down: a hand that turns tells where its camera is."""
    _take(rng, task)
    grip = task.grasp_point()[2] - task.at[2, 3]
    task.go(above(np.array(task.path[-1].xyz), rng.uniform(0.08, 0.2)), holds=True, touches=True)
    for _ in range(int(rng.integers(3, 6))):
        yaw, tilt, roll = task.yaw + rng.normal(0, 0.6), task.tilt + rng.normal(0, 0.35), rng.normal(0, 0.5)
        task.go(np.array([*rng.uniform(-0.15, 0.15, 2), rng.uniform(0.12, 0.3)]), yaw=yaw, tilt=tilt, roll=roll)
    task.go(above(task.goal, grip + rng.uniform(0.05, 0.12)), yaw=task.yaw, tilt=task.tilt, roll=0.0)
    task.go(above(task.goal, grip))
    task.go(seconds=rng.uniform(0.2, 0.6), opening=task.open_m, holds=False)
    _leave(rng, task)


SKILLS: dict[str, Callable[[Rng, Task], None]] = {
    "pick-place": pick_place,
    "push": push,
    "pull": pull,
    "open": opens,
    "idle": idle,
    "turn": turns,
}
"""Name -> what adds its way-points to a task's path."""

MIXTURE = {"pick-place": 0.47, "push": 0.2, "pull": 0.1, "open": 0.15, "idle": 0.08}
"""How often each happens where none is asked for."""


def play(path: list[Waypoint], at: Floats, times: Floats) -> tuple[list[Floats], list[float], list[Floats], list[bool]]:
    """Hand (4, 4), opening (m), thing (4, 4) and contact at each of `times` (s); `at` is the thing's first pose.

    Positions are eased in and out on the way between two way-points.
    """
    ends = np.cumsum([each.seconds for each in path])
    starts_of_thing = [at]
    for before, after in pairwise(path):
        moved = after.hand @ np.linalg.inv(before.hand) if after.holds else np.eye(4)
        starts_of_thing.append(moved @ starts_of_thing[-1])
    rows = []
    for time in times:
        leg = int(np.clip(np.searchsorted(ends, time, side="left"), 1, len(path) - 1))
        before, after = path[leg - 1], path[leg]
        share = float(np.clip((time - ends[leg - 1]) / max(after.seconds, 1e-6), 0, 1))
        eased = share * share * (3 - 2 * share)
        now = _between(before, after, eased)
        moved = now.hand @ np.linalg.inv(before.hand) if after.holds else np.eye(4)
        rows.append((now.hand, now.opening, moved @ starts_of_thing[leg - 1], after.touches and time > ends[leg - 1]))
    hands, openings, things, contacts = (list(column) for column in zip(*rows, strict=True))
    return hands, openings, things, contacts


def _between(one: Waypoint, other: Waypoint, share: float) -> Waypoint:
    def mix(a: float, b: float) -> float:
        return a + (b - a) * share

    x, y, z = (mix(a, b) for a, b in zip(one.xyz, other.xyz, strict=True))
    return Waypoint(
        (x, y, z),
        mix(one.yaw, other.yaw),
        mix(one.tilt, other.tilt),
        mix(one.roll, other.roll),
        mix(one.opening, other.opening),
    )


def _take(rng: Rng, task: Task) -> None:
    """To the thing and closed on it; one time in six after a grasp that missed it."""
    grip = task.grasp_point()
    width = min(task.thing.grasp[1], task.open_m - 0.005)
    wide = min(width + rng.uniform(0.01, 0.04), task.open_m)
    if rng.random() < 0.17:
        aside = rng.choice([-1, 1], 2) * (task.thing.radius + rng.uniform(0.02, 0.06))
        miss = grip + np.array([*aside, 0.0])
        task.go(above(miss, 0.1), opening=wide)
        task.go(miss)
        task.go(opening=0.0, seconds=0.4)
        task.go(above(miss, 0.1), opening=wide)
    task.go(above(grip, rng.uniform(0.06, 0.15)), opening=wide)
    task.go(grip)
    task.go(opening=max(width - 0.002, 0.0), seconds=rng.uniform(0.2, 0.6))
    task.path[-1] = replace(task.path[-1], touches=False)
    if rng.random() < 0.5:
        task.go(seconds=0.3, touches=True)


def _drag(rng: Rng, task: Task, *, beside: bool) -> None:
    way = task.goal - task.at[:3, 3]
    way[2] = 0.0
    direction = way / max(float(np.linalg.norm(way)), 1e-6)
    top = above(task.at[:3, 3], task.thing.height)
    if beside:
        point = above(
            task.at[:3, 3] - direction * (task.thing.radius + 0.012), min(0.03, task.thing.height / 2) + 0.005
        )
        task.yaw = float(np.arctan2(direction[1], direction[0])) + np.pi / 2
    else:
        point = above(top, -0.004)
    task.go(above(point, task.thing.height + rng.uniform(0.05, 0.12)), yaw=task.yaw, opening=0.0)
    task.go(point)
    strokes = int(rng.integers(1, 3))
    for _ in range(strokes):
        task.go(
            np.array(task.path[-1].xyz) + way / strokes, yaw=task.yaw + rng.normal(0, 0.15), holds=True, touches=True
        )
        task.go(seconds=rng.uniform(0.15, 0.4))
    task.go(np.array(task.path[-1].xyz) - (direction * 0.02 if beside else 0), holds=False, touches=False)
    _leave(rng, task)


def _swing(task: Task, part: Part, closed: Floats, begin: float, end: float) -> None:
    """The part from `begin` to `end`, shares of all it can; the hand keeps its hold, and turns with it."""
    at_hand, before = task.path[-1], np.linalg.inv(closed @ part.opened(begin))
    steps = 1 if part.hinge is None else 6
    for step in range(1, steps + 1):
        share = (end - begin) * step / steps
        moved = closed @ part.opened(begin + share) @ before
        turned = 0.0 if part.hinge is None else share * part.most
        xyz = (moved @ [*at_hand.xyz, 1])[:3]
        yaw, roll = at_hand.yaw + turned * part.axis[2], at_hand.roll + turned * part.axis[0]
        task.go(xyz, yaw=yaw, roll=roll, holds=True, touches=True)


def _leave(rng: Rng, task: Task) -> None:
    at_hand = np.array(task.path[-1].xyz)
    task.go(above(at_hand, rng.uniform(0.08, 0.2)), touches=False, holds=False)
    if rng.random() < 0.6:
        task.go(np.array([*rng.uniform(-0.25, 0.25, 2), rng.uniform(0.15, 0.35)]))
    if rng.random() < 0.4:
        task.go(seconds=rng.uniform(0.3, 1.0))
