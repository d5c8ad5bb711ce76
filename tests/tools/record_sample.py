"""Record the bundled sample (`flows/sources/sample`): simulated pick-and-place episodes with exact ground truth.

    python3 -m venv record
    record/bin/pip install mujoco==3.3.0 metaworld==3.1.1 packaging av==18.1.0 numpy==2.4.6
    record/bin/pip install pandas==3.1.1 pillow==13.0.0 pyarrow==26.0.1
    apt-get install libosmesa6
    MUJOCO_GL=osmesa record/bin/python -m tests.tools.record_sample --out flows/sources/sample

Run from the root of the repository; takes about a minute on a CPU. These versions give the same bytes again.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.tools.sample_layouts import write_bridge, write_lerobot, write_truth
from tests.tools.sample_scene import Script, Waypoint, record

# Mean fingertip speed of a movement in metres per 0.2 s step; that of BridgeData's is about 0.010, 0.020 in fast ones.
STEP_M = 0.017
# Fingertips stop this high above the table when they take a thing that lies on it.
CLEARANCE_M = 0.006
Point = tuple[float, float, float]


def main() -> None:
    """Record every script and write the three layouts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder that gets bridge_raw, lerobot_v30, truth")
    out = parser.parse_args().out
    recordings = []
    for script in scripts():
        recordings.append(record(script))
        area = np.isin(recordings[-1].body, list(recordings[-1].object_ids)).sum(axis=(1, 2))
        print(f"{script.name}: {len(area)} frames, object {area.min()}..{area.max()} px", flush=True)
    for name in ("bridge_raw", "lerobot_v30", "truth"):
        shutil.rmtree(out / name, ignore_errors=True)
    trajectories = write_bridge(out / "bridge_raw", recordings)
    write_lerobot(out / "lerobot_v30", recordings)
    write_truth(out / "truth", recordings, trajectories)
    print(f"{sum(p.stat().st_size for p in out.rglob('*') if p.is_file()) / 1e6:.2f} MB in {out}")


def scripts() -> list[Script]:
    """The episodes, in the order of their LeRobot index."""
    return [_block_on_plate(), _can_in_tray(), _box_on_stand(), _cube_out_of_box()]


def _block_on_plate() -> Script:
    path = pick_and_place((0.04, 0.62, 0.12), (0.05, 0.58), CLEARANCE_M, (-0.02, 0.72), 0.014, lift=0.095)
    return Script(
        name="block_on_plate",
        instruction="put the yellow block on the plate",
        noun="yellow block",
        things=_free("object", "box", (0.025, 0.022, 0.022), (0.05, 0.58), "marble", "1 .8 .12 1")
        + _free("can", "cylinder", (0.024, 0.035), (0.14, 0.76), "plaster", ".25 .45 .3 1")
        + _fixed("plate", _plate((-0.02, 0.72), 0.075, 0.004, "granite", ".55 .7 1 1")),
        eye=(0.72, 0.52, 0.52),
        target=(0.0, 0.66, 0.07),
        start=path[0],
        path=path[1:],
        place=(-0.02, 0.72),
        tolerance_m=0.03,
        collection="tabletop_plate/put_block_on_plate",
        date="2026-01-12_10-00-00",
    )


def _can_in_tray() -> Script:
    path = pick_and_place((-0.02, 0.67, 0.13), (-0.04, 0.70), 0.025, (0.02, 0.56), 0.033, lift=0.115)
    return Script(
        name="can_in_tray",
        instruction="put the orange can in the tray",
        noun="orange can",
        things=_free("object", "cylinder", (0.024, 0.036), (-0.04, 0.70), "granite", "1 .5 .1 1")
        + _free("block", "box", (0.02, 0.02, 0.02), (-0.16, 0.56), "marble", ".4 .4 1 1")
        + _fixed("tray", _container((0.02, 0.56), (0.075, 0.075), 0.03, "wood", "1 .95 .85 1")),
        eye=(-0.70, 0.86, 0.58),
        target=(0.0, 0.63, 0.07),
        start=path[0],
        path=path[1:],
        place=(0.02, 0.56),
        tolerance_m=0.04,
        collection="tabletop_tray/put_can_in_tray",
        date="2026-01-12_11-30-00",
    )


def _box_on_stand() -> Script:
    path = pick_and_place((0.01, 0.66, 0.14), (0.03, 0.69), 0.012, (-0.05, 0.56), 0.066, lift=0.115, yaws=(0.45, 0.0))
    return Script(
        name="box_on_stand",
        instruction="put the green box on the wooden stand",
        noun="green box",
        things=_free("object", "box", (0.032, 0.021, 0.028), (0.03, 0.69), "granite", ".35 1 .4 1", yaw=0.45)
        + _free("can", "cylinder", (0.022, 0.03), (0.12, 0.56), "marble", "1 .45 .45 1")
        + _fixed("stand", _geom("box", (0.06, 0.06, 0.026), (-0.05, 0.56, 0.026), "wood", "1 1 1 1")),
        eye=(0.66, 0.84, 0.50),
        target=(0.0, 0.63, 0.08),
        start=path[0],
        path=path[1:],
        place=(-0.05, 0.56),
        tolerance_m=0.03,
        collection="tabletop_stand/put_box_on_stand",
        date="2026-01-13_09-15-00",
    )


def _cube_out_of_box() -> Script:
    """The cube is hidden by the box's wall until it is lifted out."""
    path = pick_and_place((0.035, 0.62, 0.155), (0.04, 0.64), 0.018, (0.0, 0.775), CLEARANCE_M, lift=0.13)
    return Script(
        name="cube_out_of_box",
        instruction="take the blue cube out of the box and put it on the table",
        noun="blue cube",
        things=_free("object", "box", (0.023, 0.023, 0.023), (0.04, 0.64), "marble", ".3 .55 1 1", floor=0.006)
        + _free("can", "cylinder", (0.022, 0.03), (-0.13, 0.56), "plaster", ".95 .9 .5 1")
        + _fixed("container", _container((0.04, 0.64), (0.065, 0.072), 0.084, "wood", ".8 .7 .6 1")),
        eye=(0.80, 0.56, 0.33),
        target=(0.0, 0.68, 0.09),
        start=path[0],
        path=path[1:],
        place=(0.0, 0.775),
        tolerance_m=0.03,
        collection="tabletop_box/take_cube_out_of_box",
        date="2026-01-13_10-45-00",
    )


def pick_and_place(
    start: Point,
    take: tuple[float, float],
    take_z: float,
    put: tuple[float, float],
    put_z: float,
    *,
    lift: float,
    yaws: tuple[float, float] = (0.0, 0.0),
) -> list[Waypoint]:
    """Way-points of the fingertips: over the thing, down, close, up, across, down, open, up.

    Args:
        start: where the fingertips begin (m, world).
        take, take_z: where they close; put, put_z: where they open.
        lift: height of the fingertips while they carry and approach, metres.
        yaws: turn of the hand about the vertical when it takes and when it puts, rad.
    """
    at_take, at_put = yaws
    path = [Waypoint(start, 1)]

    def go(xyz: Point, yaw: float, closed: bool, steps: int | None = None) -> None:
        distance = float(np.linalg.norm(np.subtract(xyz, path[-1].xyz)))
        path.append(Waypoint(xyz, steps or max(2, round(distance / STEP_M)), closed, yaw))

    go((*take, lift), at_take, False)
    go((*take, take_z), at_take, False)
    go((*take, take_z), at_take, True, steps=3)
    go((*take, lift), at_take, True)
    go((*put, lift), at_put, True)
    go((*put, put_z), at_put, True)
    go((*put, put_z), at_put, False, steps=2)
    go((*put, put_z + 0.06), at_put, False, steps=3)
    return path


def _geom(kind: str, size: Sequence[float], pos: Sequence[float], material: str, rgba: str) -> str:
    return (
        f'<geom type="{kind}" size="{_text(size)}" pos="{_text(pos)}" material="{material}" rgba="{rgba}" '
        'contype="1" conaffinity="1" condim="4" friction="1.5 0.1 0.002" solimp="0.99 0.99 0.01" solref="0.01 1"/>'
    )


def _free(
    name: str,
    kind: str,
    size: Sequence[float],
    xy: tuple[float, float],
    material: str,
    rgba: str,
    *,
    yaw: float = 0.0,
    floor: float = 0.0,
) -> str:
    """A thing of 0.1 kg that can be moved; its inertia is that of a ball about as large."""
    inertia = 0.4 * 0.1 * float(np.mean(size)) ** 2 * 2.0
    return (
        f'<body name="{name}" pos="{_text((*xy, floor + size[-1]))}" euler="0 0 {yaw}"><freejoint/>'
        f'<inertial pos="0 0 0" mass="0.1" diaginertia="{_text([inertia] * 3)}"/>'
        f"{_geom(kind, size, (0.0, 0.0, 0.0), material, rgba)}</body>"
    )


def _fixed(name: str, geoms: str) -> str:
    return f'<body name="{name}">{geoms}</body>'


def _plate(xy: tuple[float, float], radius: float, half_height: float, material: str, rgba: str) -> str:
    """A disc to look at around a box to stand on: a box rests on a box without trembling, on a cylinder it does not."""
    pos, inner = (*xy, half_height), 0.7 * radius
    disc = _geom("cylinder", (radius, half_height), pos, material, rgba).replace('"1"', '"0"')
    box = _geom("box", (inner, inner, half_height), pos, material, rgba)
    return disc + box.replace("<geom ", '<geom group="4" ')


def _container(xy: tuple[float, float], half: tuple[float, float], height: float, material: str, rgba: str) -> str:
    """A bottom and four walls of 6 mm."""
    thick = 0.003
    x, y = xy
    walls = [((half[0], half[1], thick), (x, y, thick))]
    walls += [((thick, half[1], height / 2), (x + s * half[0], y, height / 2)) for s in (-1, 1)]
    walls += [((half[0], thick, height / 2), (x, y + s * half[1], height / 2)) for s in (-1, 1)]
    return "".join(_geom("box", size, pos, material, rgba) for size, pos in walls)


def _text(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:.8g}" for number in numbers)


if __name__ == "__main__":
    main()
