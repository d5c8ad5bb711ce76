"""The CoTracker3 network against published numbers, and what may be chunked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor

from extractors.backends.cotracker_network import (
    LEVELS,
    STRIDE,
    CoTrackerNetwork,
    FeatureMaps,
    State,
    correlate,
    interpolate_patch,
)
from tests.parity import FIXTURES, seed_model, state_shapes, synthetic_clip

KIT = FIXTURES / "cotracker3"
QUERIES, FRAMES = [0, 3, 7], [0, 5, 23]

# Above what two fp32 runs of the published model differ by, below the smallest real mistake tried (parity kit).
ENCODER = 2e-4
EMBEDDING = 5e-5
TRACKS_PX = 2e-4
SCORES = 3e-5

# Other chunks round otherwise; a wrong frame or point moves tracks by 0.01 px and more.
ROUNDING_PX = 2e-5


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network() -> CoTrackerNetwork:
    return seed_model(CoTrackerNetwork()).requires_grad_(False)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(KIT / "raw_24x96x128.npz"))


def images(frames: int, height: int, width: int) -> Tensor:
    return torch.from_numpy(synthetic_clip(frames, height, width)).permute(0, 3, 1, 2).float()


@dataclass
class Run:
    """What passed through the network in six iterations."""

    maps: FeatureMaps
    states: list[State]
    inputs: list[Tensor] = field(default_factory=list)
    blocks: dict[str, list[Tensor]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def run(network: CoTrackerNetwork, expected: dict[str, np.ndarray]) -> Run:
    """The raw fixture's run, in one chunk so that every block sees all tokens of an iteration at once."""
    with torch.inference_mode():
        maps, queries = network.encode(images(24, 96, 128)), torch.from_numpy(expected["queries"])
        seen = Run(maps, [])
        former = network.updateformer
        hooks = [former.input_transform.register_forward_pre_hook(lambda _m, x: seen.inputs.append(x[0]))]
        for name in ("time_blocks", "space_virtual2point_blocks", "space_virtual_blocks", "space_point2virtual_blocks"):
            for layer, block in enumerate(getattr(former, name)):
                hooks.append(block.register_forward_hook(_keeps(seen.blocks.setdefault(f"{name}{layer}", []))))
        support = network.support(maps, queries)
        seen.states = list(network.refine(maps, support, queries, iterations=6, chunk=100_000))
        for hook in hooks:
            hook.remove()
    return seen


def _keeps(outputs: list[Tensor]) -> Any:
    def hook(_module: Any, _inputs: Any, output: Tensor) -> None:  # what a hook returns replaces the output
        outputs.append(output)

    return hook


# Published numbers


def test_names_and_shapes_are_those_of_the_checkpoint(network: CoTrackerNetwork):
    state = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert state == state_shapes(KIT / "offline.keys.json")


def test_the_time_table_is_the_published_one(network: CoTrackerNetwork, expected: dict[str, np.ndarray]):
    np.testing.assert_allclose(network.time_emb[0, ::7, ::37], expected["time_emb_60_slice"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(network._time_table(24)[::3, ::37], expected["time_emb_24_slice"], rtol=0, atol=1e-6)
    assert torch.equal(network._time_table(60), network.time_emb[0])


def test_features_are_the_published_ones(network: CoTrackerNetwork, run: Run, expected: dict[str, np.ndarray]):
    with torch.inference_mode():
        raw = network.fnet(2 * images(24, 96, 128)[[0, 11, 23]] / 255 - 1)
    np.testing.assert_allclose(raw[:, ::8], expected["fnet_out"], rtol=0, atol=ENCODER)
    np.testing.assert_allclose(raw[0].square().sum(0).sqrt(), expected["fnet_norm_f0"], rtol=1e-4)
    unit = (raw[0] / raw[0].square().sum(0).sqrt()).permute(2, 1, 0)  # W H C
    np.testing.assert_allclose(run.maps.levels[0][0], unit, rtol=0, atol=1e-5)


@pytest.mark.parametrize("level", range(LEVELS))
def test_correlations_are_the_published_ones(
    network: CoTrackerNetwork, run: Run, expected: dict[str, np.ndarray], level: int
):
    queries = torch.from_numpy(expected["queries"])
    with torch.inference_mode():
        support = network.support(run.maps, queries).levels[level]
        coords = (queries[:, None, 1:] / STRIDE).repeat(1, 3, 1)
        volume = correlate(run.maps, level, torch.tensor(FRAMES), coords, support)
        seen = network.corr_mlp(volume).transpose(0, 1)
    volume = volume[QUERIES].transpose(0, 1).reshape(3, 3, 7, 7, 7, 7)
    np.testing.assert_allclose(volume, expected[f"corr_volume_it0_l{level}"], rtol=0, atol=EMBEDDING)
    np.testing.assert_allclose(seen, expected[f"corr_emb_it0_l{level}"], rtol=0, atol=EMBEDDING)


@pytest.mark.parametrize("iteration", [0, 1])
def test_tokens_are_the_published_ones(run: Run, expected: dict[str, np.ndarray], iteration: int):
    tokens = run.inputs[iteration][QUERIES, ::4]
    np.testing.assert_allclose(tokens, expected[f"updateformer_in_it{iteration}"], rtol=0, atol=EMBEDDING)


@pytest.mark.parametrize("layer", range(3))
def test_transformer_blocks_give_the_published_tokens(run: Run, expected: dict[str, np.ndarray], layer: int):
    first = {name: outputs[0] for name, outputs in run.blocks.items()}
    if layer == 0:  # one frame stands for all of the virtual tracks
        virtual, points = run.blocks["time_blocks0"][:2]
        first["time_blocks0"] = torch.cat([points, virtual.expand(-1, points.shape[1], -1)])
    blocks = {name: tokens[..., ::4] for name, tokens in first.items()}
    over_time = blocks[f"time_blocks{layer}"][[0, 3, 12, 75], ::6]
    virtual_from_points = blocks[f"space_virtual2point_blocks{layer}"][::6, ::16]
    virtual_self = blocks[f"space_virtual_blocks{layer}"][::6, ::16]
    points = blocks[f"space_point2virtual_blocks{layer}"][::6, ::4]
    for name, tokens in (
        ("time_block", over_time),
        ("virtual_from_points", virtual_from_points),
        ("virtual_self", virtual_self),
        ("points_from_virtual", points),
    ):
        wanted = expected[f"{name}{layer}_it0"]
        np.testing.assert_allclose(tokens, wanted, rtol=0, atol=EMBEDDING, err_msg=name)


@pytest.mark.parametrize("iteration", range(6))
def test_every_iteration_gives_the_published_tracks(run: Run, expected: dict[str, np.ndarray], iteration: int):
    state = run.states[iteration]
    coords, scores = (state.coords * STRIDE).transpose(0, 1), state.logits.sigmoid().transpose(0, 1)
    np.testing.assert_allclose(coords, expected["coords_per_iter"][iteration], rtol=0, atol=TRACKS_PX)
    np.testing.assert_allclose(scores[..., 0], expected["vis_per_iter"][iteration], rtol=0, atol=SCORES)
    np.testing.assert_allclose(scores[..., 1], expected["conf_per_iter"][iteration], rtol=0, atol=SCORES)


def test_updates_are_the_published_ones(run: Run, expected: dict[str, np.ndarray]):
    for before, after, delta in zip(run.states[:-1], run.states[1:], expected["delta"][1:], strict=True):
        np.testing.assert_allclose(after.coords - before.coords, delta[..., :2], rtol=0, atol=TRACKS_PX)
        np.testing.assert_allclose(after.logits - before.logits, delta[..., 2:], rtol=0, atol=TRACKS_PX)


def test_one_frame_gives_the_published_track(network: CoTrackerNetwork, expected: dict[str, np.ndarray]):
    queries = torch.from_numpy(expected["t60_queries"][:1])
    with torch.inference_mode():
        tracks, visibility, confidence = network(images(1, 32, 48), queries, iterations=2)
    np.testing.assert_allclose(tracks.transpose(0, 1), expected["t1_tracks"], rtol=0, atol=TRACKS_PX)
    np.testing.assert_allclose(visibility.T, expected["t1_vis"], rtol=0, atol=SCORES)
    np.testing.assert_allclose(confidence.T, expected["t1_conf"], rtol=0, atol=SCORES)


@pytest.mark.slow
def test_60_frames_give_the_published_tracks(network: CoTrackerNetwork, expected: dict[str, np.ndarray]):
    queries = torch.from_numpy(expected["t60_queries"])
    with torch.inference_mode():
        tracks, visibility, confidence = network(images(60, 32, 48), queries, iterations=2)
    np.testing.assert_allclose(tracks.transpose(0, 1), expected["t60_tracks"], rtol=0, atol=TRACKS_PX)
    np.testing.assert_allclose(visibility.T, expected["t60_vis"], rtol=0, atol=SCORES)
    np.testing.assert_allclose(confidence.T, expected["t60_conf"], rtol=0, atol=SCORES)


# Reads


@pytest.mark.parametrize("level", range(LEVELS))
def test_patches_are_bilinear_reads_with_the_border_repeated(level: int):
    generator = torch.Generator().manual_seed(level)
    maps = FeatureMaps.empty(2, 100, 136, dtype=torch.float32, device=torch.device("cpu"))
    maps.levels[level].normal_(generator=generator)
    _, width, height, _ = maps.levels[level].shape
    coords = torch.rand(40, 2, generator=generator) * 80 - 20
    coords[:4] = torch.tensor([[0.0, 0.0], [-900.0, 1e9], [33.0, 24.0], [1e30, -1e30]])
    frames = torch.arange(40) % 2
    pixels, fraction = maps.around(level, frames, coords)
    patch = interpolate_patch(maps.read(level, pixels), fraction)
    reach = torch.arange(-3, 4.0)
    where = coords[:, None, None] / 2**level + torch.stack(torch.meshgrid(reach, reach, indexing="ij"), dim=-1)
    grid = 2 * where / torch.tensor([width - 1, height - 1]).clamp(min=1) - 1
    plain = F.grid_sample(
        maps.levels[level][frames].permute(0, 3, 2, 1), grid, padding_mode="border", align_corners=True
    ).permute(0, 2, 3, 1)
    finite = [i for i in range(40) if i != 3]
    np.testing.assert_allclose(patch[finite], plain[finite], rtol=0, atol=2e-5)
    assert torch.equal(patch[3, 3, 3], maps.levels[level][1, -1, 0])


# Chunks


def test_chunks_move_the_numbers_by_rounding_only(small: CoTrackerNetwork):
    queries = torch.tensor([[0, 5, 5], [2, 40, 20], [4, 1, 31], [0, 63, 0], [1, 30, 16]], dtype=torch.float32)
    with torch.inference_mode():
        maps = small.encode(images(5, 32, 64))
        support = small.support(maps, queries)
        *_, whole = small.refine(maps, support, queries, iterations=3, chunk=10_000)
        for chunk in (1, 11, 60):
            *_, state = small.refine(maps, support, queries, iterations=3, chunk=chunk)
            np.testing.assert_allclose(state.coords, whole.coords, rtol=0, atol=ROUNDING_PX / STRIDE)
            np.testing.assert_allclose(state.logits, whole.logits, rtol=0, atol=1e-5)


def test_frames_are_encoded_independently(small: CoTrackerNetwork):
    with torch.inference_mode():
        together = small.encode(images(3, 32, 64))
        maps = FeatureMaps.empty(3, 32, 64, dtype=torch.float32, device=torch.device("cpu"))
        for t in range(3):
            maps.put(t, small.encode(images(3, 32, 64)[t : t + 1]))
    for one, other in zip(maps.levels, together.levels, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_backward_is_the_flipped_clip(small: CoTrackerNetwork):
    video, queries = images(5, 32, 64), torch.tensor([[0, 5.5, 5], [3, 40, 20.25]])
    flipped = torch.cat([4 - queries[:, :1], queries[:, 1:]], dim=1)
    with torch.inference_mode():
        maps = small.encode(video)
        *_, state = small.refine(maps, small.support(maps, queries), queries, iterations=3, backward=True)
        tracks, visibility, _ = small(video.flip(0), flipped, iterations=3)
    np.testing.assert_allclose(state.coords * STRIDE, tracks.flip(1), rtol=0, atol=ROUNDING_PX)
    np.testing.assert_allclose(state.logits.sigmoid()[..., 0], visibility.flip(1), rtol=0, atol=1e-5)
    *_, forward = small.refine(maps, small.support(maps, queries), queries, iterations=3)
    assert (state.coords - forward.coords).abs().max() > 0.01


@pytest.fixture(scope="module")
def small() -> Iterator[CoTrackerNetwork]:
    """All parts of the network, narrower: what may be chunked does not depend on the width."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extractors.backends.cotracker_network._WIDTH", 48)
        patch.setattr("extractors.backends.cotracker_network._VIRTUAL", 5)
        yield seed_model(CoTrackerNetwork()).requires_grad_(False)
