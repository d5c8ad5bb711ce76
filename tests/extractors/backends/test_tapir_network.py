"""The TAPIR network against published numbers: stages, results, resolutions, the causal form; reads and chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor

from extractors.backends import tapir_network
from extractors.backends.tapir_features import FeatureMaps, _around, patch_products
from extractors.backends.tapir_network import (
    BASE,
    MixerBlock,
    State,
    TapirNetwork,
    correlate,
    put_queries,
    pyramid,
    soft_argmax,
)
from extractors.types import Size
from tests.benchmarks import plain_tapir
from tests.parity import FIXTURES, seed_model, state_shapes, synthetic_clip

KIT = FIXTURES / "tapir"
F_, QUERIES, FRAMES = [0, 4, 7], [0, 3, 7], [0, 2, 5, 7]
HEADS = [0, 3, 7, 12]
"""Frames of maps, queries and frames of the mixer's stages, queries of the first guess's."""

# Above what two fp32 runs of the published model differ by, below the smallest real mistake tried (parity kit).
MAPS = 2e-4
UNIT = 1e-5
HEAT = 5e-5
CELLS = 2e-4
POINTS_256 = 1.5e-3
MIXED = 5e-4
TRACKS_64_PX = 4e-4
TRACKS_PX = 1.5e-3
LOGITS = 3e-4
SCORES = 1e-4

# Other chunks round otherwise; a wrong frame or point moves tracks by 0.01 px and more.
ROUNDING_256 = 2e-4

Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network() -> TapirNetwork:
    return seed_model(TapirNetwork()).requires_grad_(False)


@pytest.fixture(scope="module")
def stages() -> Arrays:
    return dict(np.load(KIT / "stages_8x64x64.npz"))


def images(frames: int, height: int, width: int) -> Tensor:
    return torch.from_numpy(synthetic_clip(frames, height, width)).permute(0, 3, 1, 2) / 255 * 2 - 1


def in_256(queries: np.ndarray, size: Size) -> Tensor:
    """(t, y, x) in pixels -> (frame, x, y) in 256-pixels."""
    height, width = size
    return torch.from_numpy(queries[:, [0, 2, 1]] * [1, 256 / width, 256 / height]).float()


@dataclass
class Run:
    """What passed through the network."""

    grids: list[FeatureMaps]
    queries: Tensor
    states: list[State]
    """The first guess with the queries put in, then after each iteration."""
    first: State
    seen: dict[str, list[Any]] = field(default_factory=dict)

    def check(self, expected: Arrays, size: Size, tolerance_px: float, prefix: str = "") -> None:
        """Every iteration and the mean over levels against the published numbers."""
        for index, state in enumerate(self.states):
            check_state(state, expected, f"{prefix}{{}}_per_iter", size, tolerance_px, index)
        check_state(self.result(), expected, f"{prefix}{{}}", size, tolerance_px)
        score = (1 - self.result().logits.sigmoid()).prod(dim=-1)
        np.testing.assert_allclose(score, expected[f"{prefix}visible_score"], rtol=0, atol=SCORES)
        assert np.array_equal(score > 0.5, expected[f"{prefix}visible"])

    def result(self) -> State:
        last = self.states[4::4]
        return State(
            torch.stack([s.points for s in last]).mean(dim=0), torch.stack([s.logits for s in last]).mean(dim=0)
        )


def check_state(
    state: State, expected: Arrays, name: str, size: Size, tolerance_px: float, index: int | None = None
) -> None:
    tracks = state.points * torch.tensor([size[1] / 256, size[0] / 256])
    for key, got, tolerance in (
        ("tracks", tracks, tolerance_px),
        ("occlusion", state.logits[..., 0], LOGITS),
        ("expected_dist", state.logits[..., 1], LOGITS),
    ):
        wanted = expected[name.format(key)]
        wanted = wanted if index is None else wanted[index]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance, err_msg=f"{name.format(key)} {index}")


def run_network(
    network: TapirNetwork, grids: list[FeatureMaps], queries: Tensor, *, temperature: float = 20.0, put: bool = True
) -> Run:
    with torch.inference_mode():
        first = network.guess(grids[0], queries, temperature=temperature)
        states = [State(put_queries(first.points, queries) if put else first.points, first.logits)]
        for maps in grids[1:]:
            states += network.refine(maps, queries, State(states[-1].points, first.logits))
        return Run(grids, queries, states, first)


def run_clip(network: TapirNetwork, shape: tuple[int, int, int], queries: np.ndarray, levels: list[Size]) -> Run:
    clip = images(*shape)
    with torch.inference_mode():
        maps = {resolution: network.encode(clip, resolution) for resolution in dict.fromkeys([BASE, *levels])}
    return run_network(network, [maps[size] for size in (BASE, *levels)], in_256(queries, shape[1:]))


@pytest.fixture(scope="module")
def maps(network: TapirNetwork) -> tuple[FeatureMaps, dict[str, Tensor]]:
    """Maps of the stages clip, and what passed through the encoder."""
    seen: dict[str, Tensor] = {}
    resnet = network.resnet_torch
    watched = {"initial_conv": resnet.initial_conv}
    watched |= {f"unit{i}": group for i, group in enumerate(resnet.block_groups)}
    watched |= {f"unit{i}_block0": resnet.block_groups[i].blocks[0] for i in (0, 1)}
    watched |= {f"extra{i}": block for i, block in enumerate(network.extra_convs.blocks)}
    hooks = [module.register_forward_hook(_keeps(seen, name)) for name, module in watched.items()]
    hooks.append(resnet.register_forward_pre_hook(lambda _m, inputs: seen.update(video_resized=inputs[0])))
    with torch.inference_mode():
        encoded = network.encode(images(8, 64, 64), BASE)
    for hook in hooks:
        hook.remove()
    return encoded, seen


def _keeps(seen: dict[str, Tensor], name: str) -> Any:
    def hook(_module: Any, _inputs: Any, output: Tensor) -> None:  # what a hook returns replaces the output
        seen[name] = output

    return hook


@pytest.fixture(scope="module")
def run(network: TapirNetwork, maps: tuple[FeatureMaps, dict[str, Tensor]], stages: Arrays) -> Run:
    """The stages run; what passed through the refinement is kept, iteration by iteration."""
    seen: dict[str, list[Any]] = {}
    mixer = network.torch_pips_mixer
    watched = {f"mixer_block{i}": block for i, block in enumerate(mixer.blocks)}
    watched |= {"mixer_linear": mixer.linear, "mixer_norm": mixer.layer_norm, "mixer_out": mixer}
    hooks = [module.register_forward_hook(_lists(seen.setdefault(name, []))) for name, module in watched.items()]
    hooks.append(mixer.register_forward_pre_hook(lambda _m, x: seen.setdefault("mixer_in", []).append(x[0])))
    with pytest.MonkeyPatch.context() as patch:
        over_time, plain = seen.setdefault("over_time", []), MixerBlock._depthwise

        def depthwise(block: MixerBlock, *arguments: Any) -> Tensor:
            out = plain(block, *arguments)
            if block is mixer.blocks[0]:
                over_time.append(out)
            return out

        patch.setattr(MixerBlock, "_depthwise", depthwise)
        done = run_network(network, [maps[0], maps[0]], in_256(stages["queries"], (64, 64)))
    for hook in hooks:
        hook.remove()
    done.seen = seen
    return done


def _lists(outputs: list[Tensor]) -> Any:
    def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
        outputs.append(output)

    return hook


# Weights and resolutions


def test_names_and_shapes_are_those_of_the_checkpoint(network: TapirNetwork):
    state = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert state == state_shapes(KIT / "bootstapir.keys.json")
    assert sum(value.numel() for value in network.state_dict().values()) == 54_699_335


def test_resolutions_are_the_published_ones():
    for size, levels in json.loads((KIT / "resolutions.json").read_text()).items():
        height, width = map(int, size.split("x"))
        assert pyramid((height, width)) == [tuple(level) for level in levels], size


# Maps


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("initial_conv", 8),
        ("unit0_block0", 8),
        ("unit0", 8),
        ("unit1_block0", 4),
        ("unit1", 4),
        ("unit2", 2),
        ("unit3", 2),
        *((f"extra{i}", 2) for i in range(5)),
    ],
)
def test_stages_of_the_encoder_are_the_published_ones(
    maps: tuple[FeatureMaps, dict[str, Tensor]], stages: Arrays, name: str, step: int
):
    got = maps[1][name][F_, ::8, ::step, ::step]
    np.testing.assert_allclose(got, stages[name], rtol=0, atol=MAPS)


def test_frames_are_enlarged_as_published(maps: tuple[FeatureMaps, dict[str, Tensor]], stages: Arrays):
    resized = maps[1]["video_resized"][F_, :, ::8, ::8].permute(0, 2, 3, 1)
    np.testing.assert_allclose(resized, stages["video_resized"], rtol=0, atol=UNIT)


@pytest.mark.parametrize(("name", "step"), [("lowres", 2), ("hires", 4), ("lowres_pooled", 2)])
def test_features_are_the_published_ones(
    maps: tuple[FeatureMaps, dict[str, Tensor]], stages: Arrays, name: str, step: int
):
    level = {"lowres": maps[0].coarse, "hires": maps[0].fine, "lowres_pooled": maps[0].pooled}[name]
    np.testing.assert_allclose(level[F_, ::step, ::step, ::8].permute(0, 3, 1, 2), stages[name], rtol=0, atol=UNIT)


def test_query_features_are_the_published_ones(run: Run, stages: Arrays):
    features = run.grids[0].at(run.queries)
    np.testing.assert_allclose(features[:, :128], stages["query_hires"], rtol=0, atol=UNIT)
    np.testing.assert_allclose(features[:, 128:], stages["query_lowres"], rtol=0, atol=UNIT)


# First guess


def test_stages_of_the_first_guess_are_the_published_ones(network: TapirNetwork, run: Run, stages: Arrays):
    heads, coarse = network.torch_cost_volume_track_mods, run.grids[0].coarse
    with torch.inference_mode():
        vectors = run.grids[0].at(run.queries)[:, 128:]
        costs = torch.einsum("tyxc,nc->tnyx", coarse, vectors)
        chosen = costs[F_][:, HEADS]
        np.testing.assert_allclose(chosen, stages["cost_volume"], rtol=0, atol=UNIT)
        raw = heads.hid1(costs.flatten(0, 1)[:, None])
        by_query = raw.view(8, 16, *raw.shape[1:])[F_][:, HEADS]
        np.testing.assert_allclose(by_query[:, :, ::4, ::2, ::2], stages["hid1"], rtol=0, atol=MAPS)
        heat = heads.hid2(raw.relu())[:, 0]
        chosen = heat.view(8, 16, 32, 32)[F_][:, HEADS]
        np.testing.assert_allclose(chosen, stages["heat_logits"], rtol=0, atol=HEAT)
        probability = (20 * chosen).flatten(2).softmax(dim=-1).view_as(chosen)
        np.testing.assert_allclose(probability, stages["heat_softmax"], rtol=0, atol=HEAT)
        assert np.array_equal(heat.flatten(1).argmax(dim=1).view(8, 16).T, stages["argmax"])
        best = heat.flatten(1).topk(2, dim=1).values
        np.testing.assert_allclose((best[:, 0] - best[:, 1]).view(8, 16).T, stages["argmax_gap"], rtol=0, atol=HEAT)
        cells = soft_argmax(20 * heat).view(8, 16, 2).transpose(0, 1)
        np.testing.assert_allclose(cells, stages["soft_argmax_grid"], rtol=0, atol=CELLS)
        inner = heads.hid3(F.pad(raw.relu(), (0, 2, 0, 2)))
        chosen = inner.view(8, 16, *inner.shape[1:])[F_][:, HEADS]
        np.testing.assert_allclose(chosen[:, :, ::4, ::2, ::2], stages["hid3"], rtol=0, atol=MAPS)
        mean = inner.relu().mean(dim=(2, 3)).view(8, 16, 32)
        np.testing.assert_allclose(mean, stages["hid3_mean"], rtol=0, atol=MAPS)
        np.testing.assert_allclose(heads.hid4(mean), stages["hid4"], rtol=0, atol=MAPS)
    np.testing.assert_allclose(run.first.logits.transpose(0, 1), stages["occ_out"], rtol=0, atol=LOGITS)
    np.testing.assert_allclose(run.first.points, 8 * stages["soft_argmax_grid"], rtol=0, atol=POINTS_256)
    np.testing.assert_allclose(run.states[0].points, stages["first_points_256"], rtol=0, atol=POINTS_256)


# Refinement


@pytest.mark.parametrize("iteration", [0, 1])
@pytest.mark.parametrize("level", range(3))
def test_patches_are_read_where_and_as_published(run: Run, stages: Arrays, iteration: int, level: int):
    maps = (run.grids[1].fine, run.grids[1].coarse, run.grids[1].pooled)[level]
    points = run.states[iteration].points[QUERIES]
    _, height, width, channels = maps.shape
    _, _, fraction = _around(points, height, width)
    first = (points * width / 256 - 0.5).floor() + 0.5  # the centre of the cell left of and above the patch's own
    reach = torch.arange(-3, 4.0)
    where = (first + fraction)[:, :, None, None] + torch.stack(torch.meshgrid(reach, reach, indexing="ij"), -1).flip(-1)
    got = where[:, FRAMES].flip(-1).flatten(2, 3)  # y, x
    np.testing.assert_allclose(got, stages[f"sample_yx_it{iteration}_l{level}"], rtol=0, atol=4e-4)
    for number, channel in enumerate(range(0, channels, 8)):  # one channel's product with 1 is the read itself
        one = torch.zeros(3, 8, channels)
        one[..., channel] = 1
        read = patch_products(maps, points, one)[:, FRAMES, ::4]
        wanted = stages[f"patch_it{iteration}_l{level}"][..., number]
        np.testing.assert_allclose(read, wanted, rtol=0, atol=MAPS)


def test_stages_of_the_mixer_are_the_published_ones(network: TapirNetwork, run: Run, stages: Arrays):
    for iteration in (0, 1):
        tokens = run.seen["mixer_in"][iteration][QUERIES][:, FRAMES]
        np.testing.assert_allclose(tokens, stages[f"mixer_in_it{iteration}"], rtol=0, atol=MIXED)
    names = [*(f"mixer_block{i}" for i in range(12)), "mixer_norm"]
    for name, step in (("mixer_linear", 4), *((name, 8) for name in names)):
        got = run.seen[name][0][QUERIES][:, FRAMES, ::step]
        np.testing.assert_allclose(got, stages[f"{name}_it0"], rtol=0, atol=MIXED, err_msg=name)
    up, down = run.seen["over_time"][:2]  # of the first of four parts: the checkpoint's channels 0, 4, 8, ...
    got = up[QUERIES][:, FRAMES, ::4].transpose(1, 2)
    np.testing.assert_allclose(got, stages["mixer_block0_up_it0"], rtol=0, atol=MIXED)
    bias = network.torch_pips_mixer.blocks[0].mlp1_up_1.bias[::16, None]
    got = down[QUERIES][:, FRAMES, ::4].transpose(1, 2) + bias
    np.testing.assert_allclose(got, stages["mixer_block0_up1_it0"], rtol=0, atol=MIXED)
    out = torch.stack(run.seen["mixer_out"])
    np.testing.assert_allclose(out[..., :4], stages["mixer_out4"], rtol=0, atol=MIXED)
    np.testing.assert_allclose(out[..., 4::12], stages["mixer_out_features"], rtol=0, atol=MIXED)


# Results


def test_64_pixels_give_the_published_tracks(network: TapirNetwork, run: Run, stages: Arrays):
    run.check(stages, (64, 64), TRACKS_64_PX)
    with torch.inference_mode():
        whole = network(run.grids, run.queries)
    check_state(whole, stages, "{}", (64, 64), TRACKS_64_PX)


def test_another_temperature_gives_the_published_tracks(network: TapirNetwork, run: Run, stages: Arrays):
    warm = run_network(network, run.grids, run.queries, temperature=10.0)
    warm.check(stages, (64, 64), TRACKS_64_PX, prefix="temp10_")


def test_256_pixels_give_the_published_tracks(network: TapirNetwork):
    expected = dict(np.load(KIT / "3x256x256.npz"))
    done = run_clip(network, (3, 256, 256), expected["queries"], [BASE])
    done.check(expected, (256, 256), TRACKS_PX)
    maps, features = done.grids[0], done.grids[0].at(done.queries)
    for name, level, step in (("lowres", maps.coarse, 2), ("hires", maps.fine, 4)):
        got = level[:, ::step, ::step, ::8].permute(0, 3, 1, 2)
        np.testing.assert_allclose(got, expected[name], rtol=0, atol=UNIT)
    np.testing.assert_allclose(features[:, :128], expected["query_hires"], rtol=0, atol=UNIT)
    np.testing.assert_allclose(features[:, 128:], expected["query_lowres"], rtol=0, atol=UNIT)


@pytest.mark.slow
def test_24_frames_give_the_published_tracks(network: TapirNetwork):
    expected = dict(np.load(KIT / "24x128x128.npz"))
    run_clip(network, (24, 128, 128), expected["queries"], [BASE]).check(expected, (128, 128), TRACKS_PX)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "size"),
    [
        ("sq384", (384, 384)),
        ("wide320x384", (320, 384)),
        ("tall384x320", (384, 320)),
        ("low200x300", (200, 300)),
        ("explicit256", (256, 256)),
        ("explicit192", (192, 192)),
    ],
)
def test_pyramids_give_the_published_tracks(
    network: TapirNetwork, monkeypatch: pytest.MonkeyPatch, case: str, size: Size
):
    expected = dict(np.load(KIT / "pyramid.npz"))
    expected = {name.removeprefix(f"{case}_"): value for name, value in expected.items() if name.startswith(case)}
    grids = [tuple(int(side) for side in row) for row in expected["resolutions"]]
    if not case.startswith("explicit"):
        assert grids == [BASE, *pyramid(size)]
    if size[0] != size[1]:
        # The published PyTorch model reads such maps off in x; the product reads where the point is.
        monkeypatch.setattr(tapir_network, "correlate", _by_height)
    done = run_clip(network, (2, *size), expected["queries"], grids[1:])
    done.check(expected, size, TRACKS_PX)
    last, features = done.grids[-1], done.grids[-1].at(done.queries)
    got = last.coarse[:, ::4, ::4, ::16].permute(0, 3, 1, 2)
    np.testing.assert_allclose(got, expected["lowres_last"], rtol=0, atol=UNIT)
    np.testing.assert_allclose(features[:, :128], expected["query_hires_last"], rtol=0, atol=UNIT)
    np.testing.assert_allclose(features[:, 128:], expected["query_lowres_last"], rtol=0, atol=UNIT)


def _by_height(maps: FeatureMaps, points: Tensor, features: Tensor) -> Tensor:
    return plain_tapir.correlate(_pair(maps), points, features, by_height=True)


def _pair(maps: FeatureMaps) -> tuple[Tensor, Tensor]:
    return maps.fine.permute(0, 3, 1, 2), maps.coarse.permute(0, 3, 1, 2)


# Causal form: frame by frame gives what the whole clip gives, so the published stream is compared with that


@pytest.fixture(scope="module")
def causal() -> TapirNetwork:
    return seed_model(TapirNetwork(causal=True)).requires_grad_(False)


def test_the_causal_form_gives_the_published_tracks(causal: TapirNetwork, run: Run):
    expected = dict(np.load(KIT / "causal_8x64x64.npz"))
    run_network(causal, run.grids, run.queries).check(expected, (64, 64), TRACKS_64_PX, prefix="clip_")


def test_the_causal_form_gives_the_published_stream(causal: TapirNetwork, run: Run, monkeypatch: pytest.MonkeyPatch):
    expected = dict(np.load(KIT / "causal_8x64x64.npz"))
    inputs: dict[int, list[Tensor]] = {0: [], 11: []}
    plain = MixerBlock._depthwise
    blocks = {id(causal.torch_pips_mixer.blocks[index]): index for index in inputs}

    def depthwise(block: MixerBlock, values: Tensor, *rest: Any) -> Tensor:
        if id(block) in blocks:
            inputs[blocks[id(block)]].append(values)
        return plain(block, values, *rest)

    monkeypatch.setattr(MixerBlock, "_depthwise", depthwise)
    free = run_network(causal, run.grids, run.queries, put=False)
    for prefix in ("clip_free_", "stream_"):
        check_state(free.result(), expected, f"{prefix}{{}}", (64, 64), TRACKS_64_PX)
        score = (1 - free.result().logits.sigmoid()).prod(dim=-1)
        assert np.array_equal(score > 0.5, expected[f"{prefix}visible"])
    for frame in (0, 3):
        for iteration, block in ((0, 0), (3, 11)):
            name = f"stream_state{frame}_it{iteration}_block{block}"
            calls = inputs[block][8 * iteration : 8 * iteration + 8]  # up and down, of each of four parts
            np.testing.assert_allclose(
                _last_two(calls[0], frame)[:, :, ::32], expected[f"{name}_1"], rtol=0, atol=MIXED
            )
            hidden = torch.stack(calls[1::2], dim=-1).flatten(2)  # the checkpoint's order: 4 c + part
            np.testing.assert_allclose(_last_two(hidden, frame)[:, :, ::128], expected[f"{name}_2"], rtol=0, atol=MIXED)


def _last_two(values: Tensor, frame: int) -> Tensor:
    """(n, T, C) -> (n, 2, C): frames before the next one, zeros before the clip."""
    return F.pad(values, (0, 0, 2, 0))[:, frame + 1 : frame + 3]


def test_a_causal_network_does_not_look_ahead(causal: TapirNetwork, network: TapirNetwork, run: Run):
    first = FeatureMaps(*(level[:5] for level in (run.grids[0].fine, run.grids[0].coarse, run.grids[0].pooled)))
    queries = run.queries[run.queries[:, 0] < 4]
    for net, same in ((causal, True), (network, False)):
        with torch.inference_mode():
            short, whole = net([first, first], queries), net(run.grids, queries)
        assert bool((short.points - whole.points[:, :5]).abs().max() < ROUNDING_256) == same


# Reads, chunks, other maps


@pytest.mark.parametrize("resolution", [(64, 64), (40, 104), (104, 40), (16, 24)])
def test_products_are_those_of_49_reads_each(resolution: Size):
    generator = torch.Generator().manual_seed(resolution[0])
    maps = FeatureMaps.empty(3, resolution, dtype=torch.float32, device=torch.device("cpu"))
    for level in (maps.fine, maps.coarse):
        level.normal_(generator=generator)
    maps.pooled[:] = F.avg_pool2d(maps.coarse.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    points = torch.rand(30, 3, 2, generator=generator) * 400 - 70
    points[0] = torch.tensor([[0.0, 0.0], [256.0, 256.0], [-1e30, 1e30]])
    features = torch.randn(30, 3, 384, generator=generator)
    got, plain = correlate(maps, points, features), plain_tapir.correlate(_pair(maps), points, features)
    finite = torch.ones(30, 3, dtype=torch.bool)
    finite[0, 2] = False  # a plain read that far outside is undefined
    np.testing.assert_allclose(got[finite], plain[finite], rtol=0, atol=2e-3)  # sums of 256, positions of 1e-5 cells
    assert not got[0, 2].any()


def test_the_plain_form_agrees_with_the_network(network: TapirNetwork, run: Run, stages: Arrays):
    with torch.inference_mode():
        weights = network.state_dict()
        found = plain_tapir.follow(weights, [_pair(maps) for maps in run.grids], run.queries)
    np.testing.assert_allclose(found[..., :2] / 4, stages["tracks"], rtol=0, atol=TRACKS_64_PX)


def test_chunks_move_the_numbers_by_rounding_only(network: TapirNetwork, run: Run):
    with torch.inference_mode():
        whole = network(run.grids, run.queries, iterations=1)
        for chunk in (1, 500):
            part = network(run.grids, run.queries, iterations=1, chunk=chunk)
            np.testing.assert_allclose(part.points, whole.points, rtol=0, atol=ROUNDING_256)
        for some in ([0], [5, 3, 12]):
            few = network(run.grids, run.queries[some], iterations=1)
            np.testing.assert_allclose(few.points, whole.points[some], rtol=0, atol=ROUNDING_256)


def test_maps_without_any_structure_give_finite_tracks(network: TapirNetwork):
    maps = FeatureMaps.empty(2, BASE, dtype=torch.float32, device=torch.device("cpu"))
    for level in (maps.fine, maps.coarse, maps.pooled):
        level.zero_()
    with torch.inference_mode():
        state = network([maps, maps], torch.tensor([[0.0, 0.0, 0.0], [1.0, 256.0, 256.0]]))
    assert state.points.isfinite().all()
    assert state.logits.isfinite().all()
