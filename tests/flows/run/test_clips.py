import numpy as np
import pytest

from flows.run.clips import KeptFrames, frames_bytes, with_kept_frames, working_bytes
from tests.support import ArraySource


class Counted:
    """Frames that count how often they are decoded."""

    def __init__(self, n_frames, fails_at=None):
        self.shape, self.decoded, self.fails_at = (n_frames, 4, 6, 3), 0, fails_at

    def __len__(self):
        return self.shape[0]

    def __iter__(self):
        for t in range(len(self)):
            if t == self.fails_at:
                raise ValueError("damaged")
            self.decoded += 1
            yield np.full(self.shape[1:], t, np.uint8)


def test_frames_are_decoded_once():
    lazy = Counted(5)
    frames = KeptFrames(lazy)
    for _ in range(3):
        assert [int(frame[0, 0, 0]) for frame in frames] == [0, 1, 2, 3, 4]
    assert (lazy.decoded, len(frames), frames.shape) == (5, 5, (5, 4, 6, 3))


def test_a_pass_that_was_left_early_is_made_again():
    lazy = Counted(5)
    frames = KeptFrames(lazy)
    assert int(next(iter(frames))[0, 0, 0]) == 0
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 1, 2, 3, 4]
    assert lazy.decoded == 6


def test_damage_is_met_by_every_pass():
    frames = KeptFrames(Counted(5, fails_at=3))
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            list(frames)


def test_what_an_episode_takes_counts_its_maps(tmp_path):
    source = ArraySource(tmp_path / "in", count=1, n_frames=8)
    episode = source.open(next(source.episodes()))
    assert frames_bytes(episode) == 8 * 48 * 64 * (3 + 4 + 1)
    assert working_bytes(episode, (10, 20)) == 60 * 8 * 10 * 20
    assert with_kept_frames(episode).pixels is episode.pixels
