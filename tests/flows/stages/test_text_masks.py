"""Text-prompted masks through the configuration, the model cache and the engine, with tiny random models."""

import pytest

from extractors.errors import ConfigError, WeightsError
from flows.config import load_config
from flows.models import build as models
from packers.reader import Packet
from packers.validate import validate_packet
from tests.extractors.backends import tiny_models
from tests.flows.run.test_shard import extract
from tests.support import ArraySource


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    pytest.importorskip("transformers", reason="Grounding DINO needs the transformers package (extra `sam`)")
    root = tmp_path_factory.mktemp("weights")
    return tiny_models.save_grounding_dino(root / "dino"), tiny_models.save_sam(root / "sam")


def settings(folders, *more):
    detector, sam = folders
    return ("masks.backend=grounded-sam", f"masks.weights={sam}", f"masks.detector_weights={detector}", *more)


def test_packets_hold_masks_candidates_and_weights(tmp_path, folders):
    source = ArraySource(tmp_path / "in", count=1)
    rows, outcome = extract(tmp_path, source, *settings(folders, "masks.robot_prompt=robot arm", "masks.every=3"))
    assert outcome.exit_code == 0, rows
    (path,) = (tmp_path / "out" / "packets").glob("*/*.h5")
    assert validate_packet(path) == []
    with Packet(path) as packet:
        stage = packet.attributes["stages"]["masks"]
        assert "masks/robot" in packet.modalities
    assert stage["backend"] == "grounded-sam"
    # nano chooses among what was found.
    assert set(stage["weights"]) == {"grounding-dino-tiny", "sam-vit-base", "nano"}
    report = stage["report"]
    assert report["prompts"][1] == "square 0"  # of "put square 0 on the table"
    assert report["prompt"] == report["candidates"][0]["prompt"]
    assert report["candidates"][0]["score"] > 0
    assert "margin" in report


def test_the_place_of_weights_does_not_enter_the_key_and_prompts_do(folders):
    def keyed(*more):
        return load_config(assignments=["masks.backend=grounded-sam", *more]).keyed()["masks"]

    assert keyed("masks.weights=/a", "masks.detector_weights=/b") == keyed()
    assert keyed("masks.prompts=[carrot]") != keyed()


@pytest.mark.parametrize(
    ("backend", "read", "unread"),
    [
        ("nano", "masks.nano_working_px=96", "masks.choose=first"),
        ("sam3", "masks.choose=first", "masks.nano_working_px=96"),
        ("recorded", "masks.repair=true", "masks.choose=first"),
    ],
)
def test_settings_of_other_backends_make_nothing_work_again(backend, read, unread):
    from flows.stages.masks import MASKS

    def settings(*more):
        return MASKS.settings(load_config(assignments=[f"masks.backend={backend}", *more]))

    assert settings(unread) == settings() != settings(read)


def test_settings_of_nano_reach_it():
    config = load_config(assignments=["masks.backend=nano", "masks.nano_working_px=96"])
    assert models.segmenter(config.masks).working_px == 96


def test_motion_is_nano_now_and_says_so(caplog):
    config = load_config(assignments=["masks.backend=motion"])
    assert config.masks.backend == "nano"
    assert "masks.backend=motion is nano now" in caplog.text


@pytest.mark.parametrize("name", ["motion_working_px", "motion_max_candidates", "motion_min_score"])
def test_settings_that_are_gone_say_what_became_of_them(name):
    with pytest.raises(ConfigError, match=f"'{name}'.*nano's network draws the masks.*leave it out"):
        load_config(assignments=[f"masks.{name}=1"])


def test_missing_weights_are_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv("CUEPACK_MODELS", str(tmp_path))
    for backend, repository in (("sam3", "facebook/sam3"), ("grounded-sam", "IDEA-Research/grounding-dino-tiny")):
        config = load_config(assignments=[f"masks.backend={backend}"])
        with pytest.raises(WeightsError, match=repository):
            models.weights_digests(models.masks_weights(config.masks), config)
        with pytest.raises(WeightsError, match="nano"):
            models.segmenter(config.masks)


@pytest.mark.parametrize(
    "bad",
    [
        "masks.prompts=[]",
        "masks.prompts=['  ']",
        "masks.choose=worst",
        "masks.every=0",
        "masks.threshold=1",
        "masks.nano_working_px=0",
    ],
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(ConfigError, match="masks"):
        load_config(assignments=[bad])
