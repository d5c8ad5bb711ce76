"""The world model's shapes, what it may look at, and checkpoints under their own and under official names."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from extractors.errors import ConfigError, ShapeError, WeightsError
from flows.study.checkpoint import OFFICIAL_NAMES, from_official, load_world_model
from flows.study.stable_worldmodel import StableWorldModel
from flows.study.world_model import SIZES, WorldModel, sigreg

SMALL = replace(SIZES["tiny"], side=16, depth=1, predictor_depth=1)


def frames_and_actions(count=3, side=16, width=2):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 255, (count, 4, side, side, 3), dtype=torch.uint8, generator=generator)
    return frames, torch.randn(count, 4, width, generator=generator)


@pytest.mark.parametrize(("tokens", "latents"), [("cls", 1), ("patches", 4)])
def test_shapes(tokens, latents):
    model = WorldModel(SMALL, 2, tokens)
    frames, actions = frames_and_actions()
    encoded = model.encode(frames)
    assert encoded.shape == (3, 4, latents, 192)
    assert model.predict(encoded[:, :3], actions[:, :3]).shape == (3, 3, latents, 192)
    assert model.patches(frames).shape == (3, 4, 4, 64)


@pytest.mark.parametrize("tokens", ["cls", "patches"])
def test_a_prediction_sees_nothing_after_its_frame(tokens):
    model = WorldModel(SMALL, 2, tokens).eval()
    with torch.no_grad():
        for block in model.predictor.blocks:
            block.modulate.weight.normal_()
    frames, actions = frames_and_actions()
    latents = model.encode(frames)[:, :3]
    told = model.predict(latents, actions[:, :3])
    changed, acted = latents.clone(), actions[:, :3].clone()
    changed[:, 2] += 1
    acted[:, 2] += 1
    after = model.predict(changed, acted)
    torch.testing.assert_close(after[:, :2], told[:, :2])
    assert not torch.allclose(after[:, 2], told[:, 2])


def test_actions_matter_only_as_training_finds():
    model = WorldModel(SMALL, 2).eval()
    frames, actions = frames_and_actions()
    latents = model.encode(frames)[:, :3]
    torch.testing.assert_close(model.predict(latents, actions[:, :3]), model.predict(latents, 0 * actions[:, :3]))


def test_the_published_network_has_the_published_size():
    model = WorldModel(SIZES["lewm"], 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 18_034_478


def test_sigreg_is_least_for_a_gaussian():
    generator = torch.Generator().manual_seed(0)
    gaussian = torch.randn(2, 512, 16, generator=generator)

    def statistic(sample):
        return sigreg(sample, 256, torch.Generator().manual_seed(1)).item()

    least = statistic(gaussian)
    # Its mean under the null is the integral of the weight times 1 - exp(-t^2), about 1, whatever the sample's size.
    assert least < 1.5
    for other in (gaussian * 0.3, gaussian + 1, torch.zeros_like(gaussian), gaussian[:, :, :1].expand(-1, -1, 16)):
        assert statistic(other) > 10 * least


def official_names(model):
    """The state of `model` under the names of stable-worldmodel's class, newest or older of Hugging Face's."""
    named = {}
    for name, tensor in model.state_dict().items():
        for pattern, ours in OFFICIAL_NAMES:
            plain = ours.split(":")[0]
            match = re.fullmatch(re.escape(plain).replace(r"\\1", r"([\w.]+?)").replace(r"\\2", r"(\w+)"), name)
            if match is None:
                continue
            groups = match.groups()
            official = re.sub(r"\(\?:([^()|]*)\|?[^()]*\)\??", r"\1", pattern)
            for group in groups:
                official = re.sub(r"\((?:\\d\+|\\w\+|\.\+)\)", group, official, count=1)
            part = tensor
            if ":" in ours:
                part = tensor.chunk(3)[int(ours.split(":")[1])]
            named[official.replace("\\", "")] = part
    return named


def test_official_names_cover_every_tensor_and_come_back_equal():
    model = WorldModel(SMALL, 2)
    found = from_official(official_names(model))
    assert found.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_checkpoint_is_read_with_its_sizes(tmp_path, ending):
    model = WorldModel(SMALL, 5).eval()
    if ending == "pt":
        torch.save(model.state_dict(), tmp_path / "model.pt")
    else:
        from safetensors.torch import save_file

        save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = load_world_model(tmp_path)
    assert loaded.sizes == SMALL
    frames, _ = frames_and_actions()
    torch.testing.assert_close(loaded.encode(frames), model.encode(frames))


def test_checkpoints_that_are_none_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="found 0"):
        load_world_model(tmp_path)
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_world_model(tmp_path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "bad.pt")
    with pytest.raises(WeightsError, match="lacks"):
        load_world_model(tmp_path)
    state = WorldModel(SMALL, 2).state_dict()
    state["projector.3.weight"] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(WeightsError, match=r"projector.3.weight is \(3, 3\)"):
        load_world_model(tmp_path)
    del state["projector.3.weight"]
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(WeightsError, match=r"lacks projector.3.weight"):
        load_world_model(tmp_path)
    with pytest.raises(WeightsError, match="not a tensor of LeWorldModel"):
        from_official({"decoder.weight": torch.zeros(1)})


def test_frames_of_another_size_are_refused():
    with pytest.raises(ShapeError, match="frames of 16 px"):
        WorldModel(SMALL, 2).encode(torch.zeros(1, 4, 24, 24, 3, dtype=torch.uint8))
    with pytest.raises(ShapeError, match="patches"):
        WorldModel(replace(SMALL, side=17), 2)


def test_stable_worldmodel_is_named_where_it_is_missing():
    with pytest.raises(ConfigError, match="pip install stable-worldmodel"):
        StableWorldModel(SIZES["lewm"], 2)
    with pytest.raises(ConfigError, match="--model lewm"):
        StableWorldModel(SIZES["lewm"], 2, "patches")
