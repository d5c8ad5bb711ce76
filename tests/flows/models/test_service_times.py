"""What a network is said to cost, and whether that was published or assumed."""

import pytest

from extractors.errors import ConfigError
from flows.config import Config, load_config
from flows.models.service_times import DEVICES, ServiceTime, on_device, service_times


def _config(*settings: str, profile: str = "gpu") -> Config:
    return load_config(None, [f"run.profile={profile}", *settings]).resolved()


def test_a_published_time_stays_as_it_was_published():
    depth = service_times(_config("depth.precision=fp16"), "a100")["depth"]
    assert (depth.seconds_per_frame, depth.origin, depth.device) == (0.0075, "published", "a100")
    assert "2025-02-08" in depth.source


def test_another_device_is_scaled_by_its_stated_tflops_and_is_assumed_from_then_on():
    depth = service_times(_config("depth.precision=fp16"), "l4")["depth"]
    assert depth.seconds_per_frame == pytest.approx(0.0075 * 312 / 121)
    assert depth.origin == "assumed"
    assert "312 of a100, 121 of l4" in depth.source
    whole = service_times(_config("depth.precision=fp32"), "l4")["depth"]
    assert whole.seconds_per_frame == pytest.approx(0.0091 * 19.5 / 30.3)


def test_tracks_cost_by_their_points():
    # 52 for the encoder, 12 for each set's virtual tracks, 400 + 240 points and 36 of support twice at 0.19, all in
    # GFLOP, at 85.8 GFLOP in 9.1 ms.
    tracks = service_times(_config(), "a100")["tracks"]
    gflop = 51.8 + 24 + 712 * 0.19
    assert tracks.seconds_per_frame == pytest.approx(gflop / (85.8 / 0.0091), rel=1e-6)
    assert tracks.origin == "assumed"
    fewer = service_times(_config("tracks.grid_side=10", "tracks.count=100"), "a100")["tracks"]
    assert fewer.seconds_per_frame < tracks.seconds_per_frame


def test_key_frames_share_what_the_image_model_costs():
    each = service_times(_config("masks.plan=frames", "masks.every=1"), "h200")["masks"]
    fifth = service_times(_config("masks.plan=frames", "masks.every=5"), "h200")["masks"]
    assert each.seconds_per_frame == pytest.approx(0.030)
    assert fifth.seconds_per_frame == pytest.approx(0.006)


def test_networks_of_the_cpu_profile_use_no_device():
    assert service_times(_config(profile="cpu"), "a100") == {}
    assert service_times(_config("depth.backend=off"), "a100").keys() == {"masks", "tracks"}
    assert service_times(_config(), "cpu") == {}


def test_an_unknown_device_is_refused_with_the_ones_there_are():
    with pytest.raises(ConfigError, match=r"'v100'.*a100.*rtx4090.*cpu"):
        service_times(_config(), "v100")


@pytest.mark.parametrize("profile", ["gpu", "gpu-open"])
@pytest.mark.parametrize("device", DEVICES)
def test_each_time_names_its_source(profile, device):
    times = service_times(_config(profile=profile), device)
    assert set(times) == {"masks", "depth", "tracks"}
    for time in times.values():
        assert time.seconds_per_frame > 0
        assert time.source
        assert time.origin in ("published", "assumed")


def test_a_call_costs_its_start_and_its_frames():
    time = ServiceTime("some", "a100", "fp16", 0.01, 0.05, "assumed", "made up")
    assert time.seconds(20, calls=2) == pytest.approx(0.3)
    assert on_device(time, "a100") is time
