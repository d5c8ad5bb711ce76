"""All probes of one trained model: figures and numbers that tell what it learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flows.study.latents import Encoded, Probe, encode_episodes, not_measured
from flows.study.models import LatentModel, StudyEpisode
from flows.study.probes_decoding import decoding
from flows.study.probes_latents import collapse, latent_pca, neighbours, tsne
from flows.study.probes_predictions import counterfactual, error_over_horizon, surprise

PROBES: dict[str, Callable[[Encoded], Probe]] = {
    "error_over_horizon": error_over_horizon,
    "counterfactual": counterfactual,
    "surprise": surprise,
    "latent_pca": latent_pca,
    "neighbours": neighbours,
    "tsne": tsne,
    "collapse": collapse,
}
"""The probes that look at held-out episodes only, in the report's order; `decoding` needs training episodes too."""


def probe_model(
    model: LatentModel, held_out: Sequence[StudyEpisode], training: Sequence[StudyEpisode]
) -> tuple[Probe, ...]:
    """Every probe of `model`, each of which says so where it could not be measured; `decoding` last.

    Args:
        model: the trained model.
        held_out: episodes that it was not trained on.
        training: episodes that decoders are fitted on.
    """
    try:
        seen, fitted_on = encode_episodes(model, held_out), encode_episodes(model, training)
    except ValueError as error:
        return tuple(not_measured(name, str(error)) for name in [*PROBES, "decoding"])
    return (*(probe(seen) for probe in PROBES.values()), decoding(seen, fitted_on))
