"""Probes of constructed models, whose answers are known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from flows.study.figures import as_svg
from flows.study.latents import encode_episodes
from flows.study.probes import PROBES, probe_model
from flows.study.probes_decoding import decoding
from flows.study.probes_latents import collapse, effective_rank, latent_pca, neighbours, sigreg_statistic, tsne
from flows.study.probes_predictions import auc, counterfactual, error_over_horizon, slide_artefact, surprise
from tests.flows.study.toy_models import Constant, Perfect, Random, episode, without_actions, world

NAMES = [*PROBES, "decoding"]


def seen(model, episodes=None):
    return encode_episodes(model(), world() if episodes is None else episodes)


def test_a_perfect_model_has_no_error_at_any_horizon():
    numbers = error_over_horizon(seen(Perfect)).numbers
    # States are painted in steps of 1/4096, a roll-out adds 8 actions to one.
    assert max(numbers["model"]) < 1e-6
    assert numbers["windows"] == 6 * (30 - 3 - 8 + 1)
    assert len(numbers["copy"]) == 8
    # A random walk is further from where it was with every step, in proportion to their number.
    assert numbers["copy"] == sorted(numbers["copy"])
    assert numbers["copy"][7] / numbers["copy"][0] == pytest.approx(8, rel=0.3)


def test_predicting_the_mean_of_noise_reaches_1_and_copying_it_2():
    numbers = error_over_horizon(seen(Random)).numbers
    assert numbers["model"] == pytest.approx([1] * 8, abs=0.1)
    assert numbers["constant"] == pytest.approx([1] * 8, abs=0.1)
    assert numbers["copy"] == pytest.approx([2] * 8, abs=0.2)
    assert numbers["ratio_to_copy"] == pytest.approx([0.5] * 8, abs=0.06)


@pytest.mark.parametrize("probe", [error_over_horizon, counterfactual, surprise, latent_pca, tsne])
def test_latents_that_do_not_vary_give_no_number(probe):
    numbers = probe(seen(Constant)).numbers
    assert "do not vary" in numbers["reason"]
    assert "model" not in numbers


def test_only_a_model_that_uses_actions_suffers_from_false_ones():
    numbers = counterfactual(seen(Perfect)).numbers
    assert max(numbers["real"]) < 1e-6
    # Without actions the roll-out stands still; with another window's it walks as far again, away from the truth.
    copied = error_over_horizon(seen(Perfect)).numbers["copy"]
    assert numbers["zero"] == pytest.approx(copied, rel=1e-3)
    assert numbers["shuffled"][7] / numbers["zero"][7] == pytest.approx(2, rel=0.35)
    assert min(numbers["ratio"]["shuffled"]) > 1e5
    blind = counterfactual(seen(Random)).numbers
    assert blind["gap"] == {"shuffled": [0.0] * 8, "zero": [0.0] * 8}
    assert blind["ratio"]["shuffled"] == [1.0] * 8


def test_an_artefact_surprises_where_it_is_encoded():
    numbers = surprise(seen(Perfect)).numbers
    assert numbers["auc"]["perturbed"] == 1.0
    assert numbers["ratio"]["perturbed"] > 1e3
    # What is given with the square in it misleads as much: the square is predicted to stay.
    assert numbers["perturbed_context"] == pytest.approx(numbers["perturbed"], rel=0.05)
    assert numbers["steps"] == 6 * 27
    # The random encoder reads corner pixels only, which the square never covers.
    blind = surprise(seen(Random)).numbers
    assert blind["ratio"]["perturbed"] == 1.0
    assert blind["auc"]["perturbed"] == 0.5


def test_the_square_slides_from_edge_to_edge():
    frames = np.zeros((5, 40, 60, 3), np.uint8)
    painted = slide_artefact(frames, np.random.default_rng(0))
    assert not frames.any()
    columns = [np.flatnonzero(frame.any(axis=(0, 2))) for frame in painted]
    assert (columns[0][0], columns[-1][-1]) == (0, 59)
    assert {len(one) for one in columns} == {8}
    assert [one[0] for one in columns] == [0, 13, 26, 39, 52]


def test_auc_counts_pairs():
    assert auc(np.array([1.0, 2]), np.array([3.0, 4])) == 1
    assert auc(np.array([1.0, 2]), np.array([2.0, 0])) == pytest.approx((1 + 0.5) / 4)


def test_decoding_reads_what_is_encoded_and_nothing_else():
    training = seen(Perfect, world(12, 60, first=100))
    numbers = decoding(seen(Perfect, world(8, 60)), training).numbers
    assert list(numbers) == ["action", "bent", "constant", "noise", "state"]
    assert numbers["state"]["linear"] > 0.999
    assert numbers["state"]["mlp"] > 0.95
    # |x| is in the latent, but not on a line.
    assert numbers["bent"]["mlp"] > numbers["bent"]["linear"] + 0.3
    for name in ("noise", "action"):
        assert abs(numbers[name]["linear"]) < 0.1
        assert numbers[name]["mlp"] < 0.1
    assert numbers["constant"]["linear"] is None
    assert numbers["constant"]["reason"] == "constant in the held-out episodes"
    assert numbers["state"]["training_rows"] == 12 * 59
    assert numbers["state"]["left_out"] == 20  # the first state of each episode is missing


@pytest.mark.parametrize("model", [Constant, Random])
def test_nothing_is_decoded_from_a_constant_or_from_noise(model):
    numbers = decoding(seen(model, world(4, 40)), seen(model, world(8, 60, first=100))).numbers
    assert all(found["linear"] is None or found["linear"] < 0.05 for found in numbers.values())
    assert all(found["mlp"] is None or found["mlp"] < 0.05 for found in numbers.values())


def test_neighbours_of_a_random_walk_are_near_in_time_and_chance_otherwise():
    near = neighbours(seen(Perfect)).numbers["near_in_time"]
    assert near["share"] > 3 * near["chance"]
    constant = neighbours(seen(Constant)).numbers
    assert constant["near_in_time"]["share"] == pytest.approx(constant["near_in_time"]["chance"])
    assert constant["same_episode"]["share"] == pytest.approx(29 / 179)
    random = neighbours(seen(Random, world(6, 80))).numbers["near_in_time"]
    assert random["share"] == pytest.approx(random["chance"], abs=0.05)


def test_principal_components_of_a_plane_are_two():
    numbers = latent_pca(seen(Perfect)).numbers
    assert sum(numbers["explained"][:2]) == pytest.approx(1, abs=1e-6)
    assert numbers["components_for_90_percent"] <= 2
    spread = latent_pca(seen(Random, world(6, 100))).numbers
    assert max(spread["explained"]) < 2 / 16
    assert spread["components_for_90_percent"] >= 13


def test_collapse_is_told_from_low_rank_and_from_a_fine_encoder():
    constant = collapse(seen(Constant)).numbers
    assert constant["flag"] == "collapsed"
    assert constant["effective_rank"] == 0
    random = collapse(seen(Random, world(6, 100))).numbers
    assert random["flag"] == "fine"
    assert random["effective_rank"] == pytest.approx(random["normal_effective_rank"], rel=0.02)
    assert random["sigreg"] == pytest.approx(random["normal_sigreg"], rel=0.2)
    assert random["std"][2] == pytest.approx(1, abs=0.05)
    assert constant["sigreg"] > 50 * random["sigreg"]

    class OneLine(Random):
        width = 64

        def encode(self, frames):
            return super().encode(frames)[:, :1] * np.ones((1, self.width), np.float32)

    assert collapse(seen(OneLine)).numbers["flag"] == "low-rank"


def test_effective_rank_of_known_spectra():
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.standard_normal((200, 5)) - 0.0)[0]
    directions -= directions.mean(axis=0)
    directions = np.linalg.qr(directions)[0]
    assert effective_rank(directions) == pytest.approx(5)
    assert effective_rank(directions * [1, 1, 0, 0, 0]) == pytest.approx(2)
    assert effective_rank(np.ones((10, 3))) == 0


def test_sigreg_grows_with_distance_from_a_normal_distribution():
    points = np.random.default_rng(0).standard_normal((2000, 8))
    statistics = [sigreg_statistic(points * scale) for scale in (1, 1.3, 2)]
    assert statistics[0] < 1
    assert statistics == sorted(statistics)
    # One point at 0 for all: cos = 1, sin = 0, so n times the weighted square of 1 - exp(-t^2/2).
    knots = np.linspace(0, 3, 17)
    weights = np.full(17, 3 / 16)
    weights[[0, -1]] /= 2
    expected = 50 * (weights * np.exp(-(knots**2) / 2) * (1 - np.exp(-(knots**2) / 2)) ** 2).sum()
    assert sigreg_statistic(np.zeros((50, 4))) == pytest.approx(expected)


def test_all_probes_give_json_figures_and_captions_the_same_twice():
    first, again = (probe_model(Perfect(), world(3, 15), world(3, 15, first=50)) for _ in range(2))
    assert [probe.name for probe in first] == NAMES
    for one, other in zip(first, again, strict=True):
        assert json.dumps(one.numbers, allow_nan=False) == json.dumps(other.numbers)
        assert "reason" not in one.numbers, one.numbers
        svg = as_svg(one.figure)
        assert svg == as_svg(other.figure)
        assert svg.startswith("<?xml")
        assert one.caption.endswith(".")


@pytest.mark.parametrize(
    ("model", "lengths"),
    [
        *((Perfect, lengths) for lengths in [(1,), (2,), (0, 1), (1, 2, 3), (4,), (30,)]),
        *((model, lengths) for model in (Constant, Random) for lengths in [(5, 1)]),
    ],
)
def test_short_and_single_episodes_are_said_not_crashed_on(model, lengths):
    held_out = [episode(f"$x_{n}", n, n) for n in lengths]
    probes = probe_model(model(), held_out, world(1, 6, first=9))
    assert [probe.name for probe in probes] == NAMES
    for probe in probes:
        json.dumps(probe.numbers, allow_nan=False)
        assert as_svg(probe.figure)
    if sum(lengths) <= 3:
        assert "long enough" in probes[0].numbers["reason"]


def test_windows_without_actions_are_left_out_and_counted():
    held_out = [episode("a", 30, 0, history_of_nan=4), episode("b", 30, 1)]
    numbers = error_over_horizon(seen(Perfect, held_out)).numbers
    assert (numbers["windows"], numbers["windows_without_action"]) == (40 - 4, 4)
    nothing = [without_actions(one) for one in held_out]
    for probe in (error_over_horizon, counterfactual, surprise):
        assert "lack an action" in probe(seen(Perfect, nothing)).numbers["reason"]
    action = decoding(seen(Perfect, nothing), seen(Perfect, nothing)).numbers["action"]
    assert (action["linear"], action["left_out"]) == (None, 120)


def test_a_diverged_model_is_said_by_every_probe():
    class Diverged(Random):
        def encode(self, frames):
            return np.full((len(frames), 4), np.nan, np.float32)

    probes = probe_model(Diverged(), world(2), world(2))
    assert [probe.name for probe in probes] == NAMES
    assert all("diverged" in probe.numbers["reason"] for probe in probes)


def test_a_cue_that_some_episodes_lack_is_scored_on_the_others():
    held_out = world(3)
    held_out[0] = replace(held_out[0], cues={})
    numbers = decoding(seen(Perfect, held_out), seen(Perfect, world(4, first=20))).numbers
    assert numbers["noise"]["held_out_rows"] == 60
    assert numbers["noise"]["left_out"] == 30
