import numpy as np

from extractors.handeye.path import HandPath
from extractors.handeye.start import affine_groups, affine_sums, moving_tracks, start_cameras
from tests.benchmarks.handeye import without_object
from tests.benchmarks.handeye_scenes import ARM, HAND, STATIC, Recipe, random_scene

RECIPE = Recipe(travel=(0.3, 0.4), fps=(10, 10), seconds=(4, 4), n_hand=(12, 12), n_arm=(6, 6), n_static=60)


def prepared(seed, delay=0.0):
    scene = random_scene(seed, RECIPE if not delay else Recipe(**{**vars(RECIPE), "delay": (delay, delay)}))
    clip = without_object(scene)
    path = HandPath.through(clip.hand_pose, clip.timestamp, clip.hand_pose[:, :3, 3].mean(axis=0))
    return scene, [clip], [path]


def test_still_tracks_do_not_move_and_the_hands_do():
    for seed in range(5):
        scene, clips, paths = prepared(seed)
        moving = moving_tracks(clips, affine_sums(clips, paths, 0.0, 0.12))
        assert moving[scene.kind == STATIC].mean() < 0.1
        assert moving[scene.kind == HAND].mean() > 0.8


def test_the_best_group_holds_the_hand_and_its_axes_are_the_cameras():
    right = 0
    for seed in range(6):
        scene, clips, paths = prepared(seed)
        best = affine_groups(clips, paths, (0.0,), lever_m=0.12)[0]
        assert best.riding[scene.kind == HAND].sum() > best.riding[scene.kind == ARM].sum()
        truth = scene.carrier_from_camera[:3, :3]
        states = start_cameras(best, np.eye(3), np.zeros(2), "fixed")
        turns = [np.degrees(np.arccos(np.clip((np.trace(s.rotation.T @ truth) - 1) / 2, -1, 1))) for s in states]
        right += min(turns) < 30
    assert right >= 5


def test_a_delay_is_started_from_where_it_is_clear():
    _, clips, paths = prepared(1, delay=0.4)
    best = affine_groups(clips, paths, (-0.4, -0.2, 0.2, 0.4), lever_m=0.12)[0]
    assert best.delay_s == 0.4
    _, clips, paths = prepared(1)
    assert affine_groups(clips, paths, (-0.4, -0.2, 0.2, 0.4), lever_m=0.12)[0].delay_s == 0.0
