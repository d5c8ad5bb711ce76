import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from extractors.handeye.body import body_of, off_axis
from extractors.handeye.known import KnownCamera
from extractors.handeye.path import HandPath
from extractors.handeye.project import Observations, poses_at
from extractors.handeye.rests import Rest
from tests.benchmarks.handeye_scenes import OBJECT, Recipe, random_scene

RECIPE = Recipe(turn=(2, 5), travel=(0.3, 0.4), fps=(5, 5), seconds=(5, 5), distance=(0.8, 1.0), delay=(0, 0))


def scene_body(seed, *, rests=True, turn=(0.0, 0.0, 0.0), noise=1.5 / 256, start=None):
    """A scene's object with tracks made from the truth; in its rest it is turned by a rotation vector `turn`."""
    scene = random_scene(seed, RECIPE)
    rng = np.random.default_rng(seed)
    chosen = np.flatnonzero(scene.kind == OBJECT)
    points = scene.points[chosen]
    camera = KnownCamera(scene.focal_px, scene.carrier_from_camera)
    origin = scene.clip.hand_pose[:, :3, 3].mean(axis=0)
    poses = poses_at([HandPath.through(scene.clip.hand_pose, scene.clip.timestamp, origin)], 0.0)
    state = camera.state(scene.clip.size[1], origin)
    held = np.flatnonzero(scene.held)
    frame, track = np.tile(held, len(points)), np.arange(len(points)).repeat(len(held))

    def seen(at, rows):
        places = np.einsum("oij,oj->oi", poses.rotation[rows], at) + poses.translation[rows]
        in_camera = (places - state.position) @ state.rotation
        return state.focal * in_camera[:, :2] / in_camera[:, 2:]

    exact = seen(points[track], frame)
    observed = Observations(exact + rng.normal(0, noise, exact.shape), frame, track, len(points))
    found = []
    if rests:
        edge, middle = held[0], points.mean(axis=0)
        moved = (points - middle) @ Rotation.from_rotvec(turn).as_matrix().T + middle
        xy = seen(moved, np.full(len(points), edge)) + rng.normal(0, noise / 5, (len(points), 2))
        count = np.full(len(points), 25)
        found.append(Rest(np.zeros(0, bool), int(edge), xy, count, noise, np.eye(4), np.zeros(2)))
    sight = poses.rotation[held[len(held) // 2]].T @ state.rotation[:, 2]
    across = off_axis(points, sight)
    return points, body_of(
        observed,
        noise,
        poses,
        found,
        state,
        points.mean(axis=0) + across if start is None else start,
        np.repeat(np.eye(4)[None], len(found), axis=0),
        sight=sight,
        own_m=float(np.sqrt((across**2).sum(axis=1).mean() / 2)),
        shared_m=0.1,
    )


def error(points, body):
    return float(np.median(np.linalg.norm(body.fitted().points - points, axis=1)))


@pytest.mark.parametrize("turn", [(0.02, -0.03, 0.05), (0.3, -0.2, 0.3)])
def test_gradients_are_those_of_the_cost(turn):
    _, body = scene_body(3, turn=turn)
    place = body.fitted()
    rng = np.random.default_rng(0)
    place = body.moved(place, rng.normal(0, 1e-3, body.n_shared), rng.normal(0, 1e-3, place.points.shape))
    normal = body.normal(place)
    for parameter in range(body.n_shared):
        step = np.zeros(body.n_shared)
        step[parameter] = 1e-6
        ahead, behind = (body.moved(place, sign * step, np.zeros_like(place.points)).cost for sign in (1, -1))
        assert normal.shared_gradient[parameter] == pytest.approx((ahead - behind) / 2e-6, rel=1e-3, abs=0.05)
    for _ in range(20):
        moves = rng.normal(0, 1, place.points.shape)
        ahead, behind = (body.moved(place, np.zeros(body.n_shared), sign * moves).cost for sign in (1e-6, -1e-6))
        assert (normal.point_gradient * moves).sum() == pytest.approx((ahead - behind) / 2e-6, rel=1e-3, abs=0.05)


def test_a_rest_tells_how_deep_a_thing_is_that_hardly_turns():
    seeds = range(12)
    alone = [error(*scene_body(seed, rests=False)) for seed in seeds]
    with_rest = [error(*scene_body(seed)) for seed in seeds]
    turned = [error(*scene_body(seed, turn=(0.05, 0.0, 0.05))) for seed in seeds]
    assert np.median(with_rest) < 0.85 * np.median(alone)
    assert np.median(turned) < np.median(alone)


def test_errors_are_within_two_sigmas_and_sigmas_are_below_what_was_believed():
    z = []
    for seed in range(12):
        points, body = scene_body(seed)
        place = body.fitted()
        sigma = np.sqrt(np.trace(body.covariance(place, np.ones(len(body.sigma)), alike=1), axis1=1, axis2=2))
        assert (sigma < np.sqrt(3) * np.hypot(body.own_m, body.shared_m)).all()
        z.append(np.linalg.norm(place.points - points, axis=1) / sigma)
    assert np.mean(np.concatenate(z) < 2) > 0.9


@pytest.mark.parametrize("n_tracks", [6, 500])
def test_few_tracks_and_many(n_tracks):
    points, body = scene_body(1)
    chosen = np.arange(n_tracks) % len(points)
    rng = np.random.default_rng(0)
    each = [np.flatnonzero((body.seen.track == track) & (body.rest < 0)) for track in chosen]
    seen = Observations(
        *(np.concatenate([values[rows] for rows in each]) for values in (body.seen.xy, body.seen.frame)),
        np.repeat(np.arange(n_tracks), [len(rows) for rows in each]),
        n_tracks,
    )
    start = body.start[chosen] + rng.normal(0, 1e-3, (n_tracks, 3))
    found = body_of(
        seen,
        body.sigma[0],
        body.poses,
        [],
        body.state,
        start,
        np.zeros((0, 4, 4)),
        sight=body.sight,
        own_m=body.own_m,
        shared_m=0.1,
    ).fitted()
    assert np.median(np.linalg.norm(found.points - points[chosen], axis=1)) < 0.02
