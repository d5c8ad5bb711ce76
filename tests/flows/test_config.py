from typing import get_args

import pytest

from extractors.errors import ConfigError
from flows.config import Config, StageName, load_config
from flows.models.build import profile_weights
from flows.models.weights import CHECKPOINTS


def test_a_file_overrides_defaults_and_set_overrides_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("masks: {dilate: [3]}\ntracks: {count: 50, seed: 7}\n")
    config = load_config(file, ["tracks.count=60"])
    assert config.masks.dilate == (3,)
    assert (config.tracks.count, config.tracks.seed) == (60, 7)
    assert config.packet.height == 224


@pytest.mark.parametrize(
    ("assignment", "hint"),
    [
        ("masks.dilat=[4]", "did you mean 'dilate'"),
        ("mask.dilate=[4]", "did you mean 'masks'"),
        ("tracks.backend=cotraker3", "did you mean 'cotracker3'"),
        ("tracks.count=-1", "greater than or equal to 1"),
        ("tracks.count=many", "valid integer"),
        ("masks.dilate=[0]", "greater than or equal to 1"),
        ("masks", "section.key=value"),
        ("masks.dilate=[", "not YAML"),
    ],
)
def test_what_is_not_known_is_refused_with_the_nearest_name(assignment, hint):
    with pytest.raises(ConfigError, match=hint.replace("(", r"\(")):
        load_config(assignments=[assignment])


def test_a_file_that_is_no_configuration_is_refused(tmp_path):
    file = tmp_path / "c.yaml"
    for text in ("- a\n", "masks: 3\n", "{"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"c\.yaml"):
            load_config(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_the_cpu_profile_needs_no_weights_but_the_packaged_ones():
    config = load_config(assignments=["run.profile=cpu"]).resolved()
    assert (config.masks.backend, config.depth.backend, config.tracks.backend) == ("nano", "nano", "lucas-kanade")
    assert profile_weights("cpu") == ()


def test_the_open_profile_has_weights_that_anyone_may_use():
    config = load_config(assignments=["run.profile=gpu-open"]).resolved()
    assert (config.masks.backend, config.depth.backend, config.tracks.backend) == (
        "grounded-sam",
        "video-depth-anything",
        "tapir",
    )
    assert config.depth.model == "vits"
    assert config.run.wants_gpu
    assert all(CHECKPOINTS[name].is_open for name in profile_weights("gpu-open"))
    assert not all(CHECKPOINTS[name].is_open for name in profile_weights("gpu"))


def test_a_backend_that_was_named_wins_over_the_profile():
    config = load_config(assignments=["run.profile=gpu", "tracks.backend=lucas-kanade"]).resolved()
    assert (config.masks.backend, config.tracks.backend) == ("sam3", "lucas-kanade")


def test_only_what_changes_a_packet_enters_its_configuration():
    keyed = Config().keyed()
    assert "run" not in keyed
    assert "select" not in keyed
    assert "weights" not in keyed["depth"]
    assert Config().digest() == load_config(assignments=["run.workers=3", "depth.weights=/a"]).digest()
    assert Config().digest() != load_config(assignments=["tracks.seed=3"]).digest()


def test_off_may_be_written_without_quotes(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("depth: {backend: off}\n")
    config = load_config(file, ["tracks.backend=off"])
    assert (config.depth.backend, config.tracks.backend) == ("off", "off")


def test_none_may_be_written_as_the_descriptions_say_it():
    base = load_config(assignments=["tracks.window_frames=32", "select.min_score=0.5"])
    config = load_config(assignments=["tracks.window_frames=none", "select.min_score=null"], base=base)
    assert (config.tracks.window_frames, config.select.min_score) == (None, None)


def test_a_rerun_can_begin_with_every_stage_but_the_first():
    from flows.stages import STAGES

    assert get_args(StageName) == (*(stage.name for stage in STAGES[1:]), "pack")
