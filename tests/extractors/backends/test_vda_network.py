"""The network against outputs of the published models, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from extractors.backends.vda_network import ModelSize, VideoDepthNetwork
from extractors.backends.video_depth_anything import prepare
from tests.parity import FIXTURES, seed_model, seeded_tensor, state_shapes, synthetic_clip

KIT = FIXTURES / "video_depth_anything"

# Above what two fp32 runs of the published model differ by, below the smallest real mistake tried (parity kit).
DEPTH = 2e-4
ENCODER = 5e-5
LATE = 8e-4

Arrays = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def vits() -> VideoDepthNetwork:
    return seed_model(VideoDepthNetwork("vits"))


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("size", get_args(ModelSize))
def test_every_name_and_shape_of_the_published_checkpoint_is_there(size: ModelSize):
    with torch.device("meta"):
        state = VideoDepthNetwork(size).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == state_shapes(KIT / f"{size}.keys.json")


def test_weights_and_clips_are_those_of_the_parity_kit():
    gamma = seeded_tensor("pretrained.blocks.0.ls1.gamma", torch.zeros(384))
    assert gamma[:2].tolist() == pytest.approx([0.4858583, 0.5353184], abs=1e-6)
    assert synthetic_clip(2, 96, 128).sum() == 9334965
    assert synthetic_clip(1, 90, 120, seed=1).sum() == 4079250


def test_the_encoder_gives_the_published_tokens(vits: VideoDepthNetwork):
    expected = dict(np.load(KIT / "window_32x98x126.npz"))
    seen = _encoder_outputs(vits, _normalised(32, 98, 126)[[0, 16, 31]])
    assert _far(seen, expected, [name for name in seen if not name.startswith("layer")]) == {}
    _close(seen, expected, ["layer1_rn_out", "layer2_rn_out"], LATE)


@pytest.mark.slow
def test_one_window_gives_the_published_numbers_at_every_stage(vits: VideoDepthNetwork):
    expected = dict(np.load(KIT / "window_32x98x126.npz"))
    seen, depth = _window_outputs(vits, _normalised(32, 98, 126))
    _close(seen, expected, ["motion0_out", "motion1_out", "resize2_out", "resize3_out"], ENCODER)
    _close(seen, expected, ["m0_groupnorm_out", "m0_proj_in_out", "m0_attn0_out", "m0_attn1_out", "m0_ff_out"], ENCODER)
    late = ["layer3_rn_out", "layer4_rn_out", *(f"refinenet{k}_out" for k in (1, 2, 3, 4)), "output_conv1_out"]
    _close(seen, expected, [*late, "motion2_out", "motion3_out"], LATE)
    np.testing.assert_allclose(depth[::5, ::2, ::2], expected["depth"], rtol=0, atol=DEPTH)


@pytest.mark.slow
def test_the_position_table_is_taken_as_it_is_at_its_own_size(vits: VideoDepthNetwork):
    expected = dict(np.load(KIT / "window_8x518x518.npz"))
    images = _normalised(8, 518, 518)
    np.testing.assert_array_equal(vits.pretrained.positions(37, 37), vits.pretrained.pos_embed)
    seen, depth = _window_outputs(vits, images)
    _close(seen, expected, ["motion3_out", "refinenet1_out", "output_conv1_out"], LATE)
    np.testing.assert_allclose(depth[:, ::12, ::12], expected["depth"], rtol=0, atol=DEPTH)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["vitb", "vitl"])
def test_the_larger_models_give_the_published_depth(size: ModelSize):
    expected = np.load(KIT / "window_4x98x126_vitb_vitl.npz")[f"{size}_depth"]
    depth = seed_model(VideoDepthNetwork(size))(_normalised(4, 98, 126)[None])[0]
    np.testing.assert_allclose(depth[:, ::2, ::2], expected, rtol=0, atol=DEPTH)


def test_maps_that_are_not_wanted_change_nothing(vits: VideoDepthNetwork):
    features = vits.frame_features(_normalised(6, 28, 42)).split()
    every = vits.window_depth(features, [range(6)])
    some = vits.window_depth(features, [(0, 3, 5)], batch=1)
    torch.testing.assert_close(some, every[[0, 3, 5]], rtol=0, atol=2e-5)


def test_windows_of_one_batch_do_not_see_each_other(vits: VideoDepthNetwork):
    features = vits.frame_features(_normalised(8, 28, 42)).split()
    together = vits.window_depth(features, [range(4), (1, 2)])
    alone = torch.cat([vits.window_depth(features[:4], [range(4)]), vits.window_depth(features[4:], [(1, 2)])])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


def test_half_precision_moves_the_depth_by_less_than_half_a_percent_of_its_spread(vits: VideoDepthNetwork):
    # The CPU's fp16 autocast stands in for the GPU's: the same layers run in half precision.
    images = _normalised(4, 56, 70)[None]
    exact = vits(images)
    with torch.autocast("cpu", dtype=torch.float16):
        half = vits(images)
    assert half.dtype == torch.float32
    assert (half - exact).abs().mean() < 0.005 * exact.std()


def _normalised(n_frames: int, height: int, width: int) -> torch.Tensor:
    return prepare(torch.from_numpy(synthetic_clip(n_frames, height, width)), (height, width))


def _encoder_outputs(network: VideoDepthNetwork, images: torch.Tensor) -> Arrays:
    h, w = images.shape[-2] // 14, images.shape[-1] // 14
    watched = {f"block{k}_out": f"pretrained.blocks.{k}" for k in (0, 2, 5, 8, 11)}
    watched |= {"patch_embed_out": "pretrained.patch_embed"}
    maps = {f"resize{k}_out": f"head.resize_layers.{k}" for k in range(4)}
    maps |= {f"layer{k}_rn_out": f"head.scratch.layer{k}_rn" for k in (1, 2)}
    norms: list[torch.Tensor] = []
    with network.pretrained.norm.register_forward_hook(lambda _module, _inputs, output: norms.append(output)) as _:
        seen = _watch(network, watched | maps, lambda: network.frame_features(images))
    out = {name: seen[name][:, ::7, ::8] for name in watched}
    out |= {name: _thin(seen[name]) for name in maps}
    out["pos_embed_interp"] = network.pretrained.positions(h, w)[0, ::7, ::8].numpy()
    for k, tokens in enumerate(norms):
        out[f"tap{k}_patch_f0"] = tokens[0, 1:][::7, ::8].numpy()
        out[f"tap{k}_cls_f0"] = tokens[0, 0].numpy()
    return out


def _window_outputs(network: VideoDepthNetwork, images: torch.Tensor) -> tuple[Arrays, NDArray[np.float32]]:
    n_frames = len(images)
    chosen = [0, n_frames // 2, n_frames - 1]
    scratch = "head.scratch"
    maps = {f"motion{k}_out": f"head.motion_modules.{k}" for k in range(4)}
    maps |= {f"layer{k}_rn_out": f"{scratch}.layer{k}_rn" for k in (1, 2, 3, 4)}
    maps |= {f"refinenet{k}_out": f"{scratch}.refinenet{k}" for k in (1, 2, 3, 4)}
    maps |= {f"resize{k}_out": f"head.resize_layers.{k}" for k in range(4)}
    maps |= {"output_conv1_out": f"{scratch}.output_conv1"}
    first = "head.motion_modules.0.temporal_transformer"
    block = f"{first}.transformer_blocks.0"
    stages = {"m0_proj_in_out": f"{first}.proj_in", "m0_ff_out": f"{block}.ff"}
    stages |= {f"m0_attn{k}_out": f"{block}.attention_blocks.{k}" for k in (0, 1)}
    names = maps | stages | {"m0_groupnorm_out": f"{first}.norm"}
    results: list[torch.Tensor] = []
    seen = _watch(network, names, lambda: results.append(network(images[None])[0]))
    out = {name: _thin(seen[name][chosen], 4 if name == "output_conv1_out" else 8) for name in maps}
    out["m0_groupnorm_out"] = _thin(seen["m0_groupnorm_out"][chosen])
    for name in stages:  # positions, frames, channels
        out[name] = seen[name].transpose(1, 0, 2)[chosen][:, ::4, ::4]
    out["output_conv1_out"] = seen["output_conv1_out"][chosen][:, ::4, ::8, ::8]
    return out, results[0].numpy()


def _watch(network: VideoDepthNetwork, names: dict[str, str], run) -> Arrays:
    """Outputs of modules during `run`, pieces of a module called several times joined."""
    pieces: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}

    def keep(name: str):
        return lambda _module, _inputs, output: pieces[name].append(output.numpy().copy())

    hooks = [network.get_submodule(path).register_forward_hook(keep(name)) for name, path in names.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: np.concatenate(parts) for name, parts in pieces.items()}


def _thin(maps: NDArray[np.float32], channels: int = 8) -> NDArray[np.float32]:
    step = max(1, maps.shape[-1] // 9)
    return maps[:, ::channels, ::step, ::step]


def _close(seen: Arrays, expected: Arrays, names: list[str], tolerance: float) -> None:
    assert _far(seen, expected, names, tolerance) == {}


def _far(seen: Arrays, expected: Arrays, names: list[str], tolerance: float = ENCODER) -> dict[str, float]:
    """Largest differences above the tolerance, so that one failure shows all layers from the first wrong one."""
    far = {}
    for name in names:
        assert seen[name].shape == expected[name].shape, name
        difference = float(np.abs(seen[name] - expected[name]).max())
        if not difference <= tolerance:
            far[name] = difference
    return far
