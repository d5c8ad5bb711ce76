"""Probes of the encoder: principal components, neighbours, t-SNE, and whether it has collapsed."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from flows.study.figures import panels, picture, points_by_group, points_by_time, said
from flows.study.latents import Encoded, Probe, not_measured, spread
from flows.study.models import Numbers

MOST_TSNE = 1000
_MOST_SHARES = 10
_MOST_ASKED = 500
_ROWS_SHOWN, _SHOWN = 4, 4

COLLAPSED_STD = 0.01
"""Mean standard deviation per dimension below which an encoder counts as collapsed: SIGReg asks for 1, and a hundredth
of that is a ten-thousandth of the variance."""

LOW_RANK_SHARE = 0.1
"""Share of the effective rank of a normal sample of equal size below which an encoder counts as low-rank: 19 of 192
dimensions, about the joints, gripper, object pose and light that vary in a scene of manipulation."""

_KNOTS, _LAST_KNOT, _PROJECTIONS = 17, 3.0, 256
_STILL = "the latents do not vary"


def latent_pca(seen: Encoded) -> Probe:
    """The two first principal components of all latents, coloured by time and by episode.

    Numbers: `explained`, the shares of variance of the first 10 components; `components_for_90_percent`; `frames`.
    """
    name = "latent_pca"
    points = seen.points - seen.points.mean(axis=0)
    if seen.variance == 0:
        return not_measured(name, _STILL, frames=len(points))
    _, singular, axes_of = np.linalg.svd(points, full_matrices=False)
    shares = singular**2 / (singular**2).sum()
    placed = points @ axes_of[:2].T
    if placed.shape[1] < 2:
        placed = np.column_stack([placed, np.zeros(len(placed))])
    numbers: Numbers = {
        "explained": [float(share) for share in shares[:_MOST_SHARES]],
        "components_for_90_percent": int(np.searchsorted(np.cumsum(shares), 0.9 - 1e-9) + 1),
        "frames": len(points),
    }
    figure = _two_colourings(placed, seen, "component")
    second = f", {shares[1]:.0%} the second" if len(shares) > 1 else ""
    return Probe(
        name,
        numbers,
        figure,
        f"Latents on their two first principal components, by time and by episode; the first explains {shares[0]:.0%} "
        f"of the variance{second}. Episodes apart from each other say that the scene is encoded, a gradient of "
        "time that progress is.",
    )


def tsne(seen: Encoded, seed: int = 0) -> Probe:
    """scikit-learn's t-SNE of at most 1000 latents, spread evenly. Numbers: `points`, `perplexity`, `kl_divergence`."""
    from sklearn.manifold import TSNE

    name = "tsne"
    kept = spread(len(seen.points), MOST_TSNE)
    if seen.variance == 0 or len(kept) < 4:
        return not_measured(name, _STILL if len(kept) >= 4 else "fewer than 4 frames", points=len(kept))
    # scikit-learn asks for less than the number of points; 30 is its default, a third keeps some neighbourhoods.
    perplexity = min(30.0, (len(kept) - 1) / 3)
    embedding = TSNE(2, perplexity=perplexity, init="random", random_state=seed, method="barnes_hut")
    placed = embedding.fit_transform(seen.points[kept].astype(np.float32))
    numbers: Numbers = {
        "points": len(kept),
        "perplexity": perplexity,
        "kl_divergence": float(embedding.kl_divergence_),
    }
    return Probe(
        name,
        numbers,
        _two_colourings(np.asarray(placed, np.float64), seen, "t-SNE", kept),
        f"t-SNE of {len(kept)} latents (perplexity {perplexity:.0f}), by time and by episode. Only neighbourhoods mean "
        "something, distances between groups do not.",
    )


def neighbours(seen: Encoded, within: int = 2) -> Probe:
    """Frames with their nearest frames by latent: of the same episode, and of all.

    Ties count in equal parts, so that an encoder that tells nothing apart stands at chance. Numbers: `near_in_time`,
    the share of frames whose nearest one of the same episode is at most `within` frames away, and its `chance`;
    `same_episode`, the share whose nearest one of all is of the same episode, and its chance; `frames` asked.
    """
    name = "neighbours"
    points, groups = seen.points, seen.groups
    if len(points) < 2:
        return not_measured(name, "fewer than 2 frames", frames=len(points))
    rows = np.concatenate([np.arange(len(one)) for one in seen.latents])
    shares: dict[str, list[float]] = {"near": [], "near_chance": [], "same": [], "same_chance": []}
    asked = spread(len(points), _MOST_ASKED)
    for at in asked:
        distances = _distances(points, at)
        others = np.arange(len(points)) != at
        inside = others & (groups == groups[at])
        shares["same"].append(float(inside[_nearest(distances, others)].mean()))
        shares["same_chance"].append(float(inside[others].mean()))
        if inside.any():
            close = np.abs(rows - rows[at]) <= within
            shares["near"].append(float(close[_nearest(distances, inside)].mean()))
            shares["near_chance"].append(float(close[inside].mean()))
    means = {key: float(np.mean(values)) if values else None for key, values in shares.items()}
    numbers: Numbers = {
        "near_in_time": {"share": means["near"], "chance": means["near_chance"], "within_frames": within},
        "same_episode": {"share": means["same"], "chance": means["same_chance"]},
        "frames": len(asked),
        "episodes": len(seen.episodes),
    }
    return Probe(
        name,
        numbers,
        _neighbour_figure(seen, asked),
        f"Left a frame, then its nearest frames by latent: {_SHOWN} of the same episode ('same'), {_SHOWN} of all "
        "frames ('all' where of the same episode too, else 'other'), with their rows. Good neighbours show the same "
        "phase of the same movement.",
    )


def collapse(seen: Encoded, seed: int = 0) -> Probe:
    """How many directions the latents use, and how far they are from the normal distribution that SIGReg asks for.

    Numbers: `flag` (`collapsed`, `low-rank` or `fine`) and `why`; `effective_rank` (Roy and Vetterli 2007)
    beside `normal_effective_rank` of a normal sample of equal size; `sigreg` beside `normal_sigreg`, its expectation
    for a normal sample; `std`, quantiles 0, 25, 50, 75, 100 % over dimensions; `dimensions`, `frames`.
    """
    points = seen.points
    rng = np.random.default_rng(seed)
    deviations = points.std(axis=0) if seen.variance else np.zeros(points.shape[1])
    rank = effective_rank(points) if seen.variance else 0.0
    normal = effective_rank(rng.standard_normal(points.shape))
    flag, reason = _flag(float(deviations.mean()), rank, normal, len(points))
    numbers: Numbers = {
        "flag": flag,
        "why": reason,
        "effective_rank": rank,
        "normal_effective_rank": normal,
        "sigreg": sigreg_statistic(points, seed=seed),
        "normal_sigreg": float((_weights() * (1 - np.exp(-(_knots() ** 2)))).sum()),
        "std": [float(value) for value in np.quantile(deviations, (0, 0.25, 0.5, 0.75, 1))],
        "dimensions": points.shape[1],
        "frames": len(points),
    }
    if len(points) < 2:
        return Probe("collapse", numbers, said(f"collapse: {reason}"), f"{flag}: {reason}.")
    figure, (left, right) = panels(1, 2)
    singular = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    left.plot(np.arange(1, len(singular) + 1), singular / max(float(singular.sum()), 1e-300), color="#0072b2")
    left.set_xlabel("direction")
    left.set_ylabel("share of the singular values")
    left.grid(alpha=0.25)
    right.hist(deviations, bins=30, color="#0072b2")
    right.axvline(1, color="#d55e00", linestyle="--", label="SIGReg asks for 1")
    right.set_xlabel("standard deviation of a dimension")
    right.set_ylabel("dimensions")
    right.legend(fontsize=8, loc="upper right")  # "best" looks at every point, for seconds
    return Probe(
        "collapse",
        numbers,
        figure,
        f"{flag}: {reason}. Left: how evenly directions are used. Right: spread of each dimension.",
    )


def effective_rank(points: NDArray[np.floating]) -> float:
    """Effective rank (Roy and Vetterli 2007) of centred points (n, D): exp of the entropy of their singular values.

    0 where nothing varies.
    """
    singular = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    if singular.sum() == 0:
        return 0.0
    shares = singular / singular.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def sigreg_statistic(points: NDArray[np.floating], *, projections: int = _PROJECTIONS, seed: int = 0) -> float:
    """SIGReg (LeJEPA, Balestriero and LeCun 2025): the Epps-Pulley statistic of points (n, D), mean over directions.

    n * sum over 17 knots t in [0, 3] of w(t) * ((mean cos(t x) - exp(-t^2 / 2))^2 + (mean sin(t x))^2), x the points
    along one random direction, w the trapezoid rule's weights times exp(-t^2 / 2).
    """
    directions = np.random.default_rng(seed).standard_normal((points.shape[1], projections))
    along = points @ (directions / np.linalg.norm(directions, axis=0))
    total = np.zeros(projections)
    for knot, weight in zip(_knots(), _weights(), strict=True):
        real = np.cos(knot * along).mean(axis=0) - np.exp(-(knot**2) / 2)
        total += weight * (real**2 + np.sin(knot * along).mean(axis=0) ** 2)
    return float(len(points) * total.mean())


def _knots() -> NDArray[np.float64]:
    return np.linspace(0, _LAST_KNOT, _KNOTS)


def _weights() -> NDArray[np.float64]:
    step = _LAST_KNOT / (_KNOTS - 1)
    trapezoid = np.full(_KNOTS, step)
    trapezoid[[0, -1]] = step / 2
    return np.asarray(trapezoid * np.exp(-(_knots() ** 2) / 2))


def _flag(deviation: float, rank: float, normal: float, frames: int) -> tuple[str, str]:
    if frames < 2:
        return "cannot tell", "fewer than 2 frames"
    if deviation < COLLAPSED_STD:
        return (
            "collapsed",
            f"mean standard deviation {deviation:.2g} per dimension, below {COLLAPSED_STD} (SIGReg asks for 1)",
        )
    if rank < LOW_RANK_SHARE * normal:
        return "low-rank", f"effective rank {rank:.1f}, below {LOW_RANK_SHARE:.0%} of a normal sample's {normal:.1f}"
    return "fine", f"effective rank {rank:.1f} beside {normal:.1f} of a normal sample of equal size"


def _distances(points: NDArray[np.float64], at: int) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(points - points[at], axis=1))


def _nearest(distances: NDArray[np.float64], among: NDArray[np.bool_]) -> NDArray[np.int64]:
    """All indices that are nearest; several where distances are equal to rounding of float32."""
    least = distances[among].min()
    return np.flatnonzero(among & (distances <= least * (1 + 1e-6)))


def _two_colourings(
    placed: NDArray[np.float64], seen: Encoded, label: str, kept: NDArray[np.int64] | None = None
) -> Figure:
    chosen = np.arange(len(placed)) if kept is None else kept
    figure, (left, right) = panels(1, 2, width=4.8)
    points_by_time(left, placed, seen.time[chosen])
    points_by_group(right, placed, seen.groups[chosen], [episode.episode_id for episode in seen.episodes])
    for axes in (left, right):
        axes.set_xlabel(f"{label} 1")
        axes.set_ylabel(f"{label} 2")
    return figure


def _neighbour_figure(seen: Encoded, asked: NDArray[np.int64]) -> Figure:
    points, groups = seen.points, seen.groups
    starts = np.cumsum([0, *(len(one) for one in seen.latents)])
    # From inside the episodes: the ends are often standstill.
    shown = asked[spread(len(asked), _ROWS_SHOWN + 2)[1:-1]] if len(asked) > _ROWS_SHOWN + 2 else asked[:_ROWS_SHOWN]
    figure, grid = panels(len(shown), 1 + 2 * _SHOWN, width=1.0, height=1.25)
    for axes in grid:
        axes.set_axis_off()

    def show(place: int, at: int, title: str) -> None:
        group = groups[at]
        grid[place].set_axis_on()
        picture(grid[place], seen.episodes[group].frames[at - starts[group]], title)

    for line, at in enumerate(shown):
        place = line * (1 + 2 * _SHOWN)
        show(place, at, f"frame {at - starts[groups[at]]}")
        others = np.arange(len(points)) != at
        for first, among in ((1, others & (groups == groups[at])), (1 + _SHOWN, others)):
            distances = np.where(among, _distances(points, at), np.inf)
            for rank, found in enumerate(np.argsort(distances, kind="stable")[: min(_SHOWN, int(among.sum()))]):
                kind = "same" if first == 1 else ("all" if groups[found] == groups[at] else "other")
                show(place + first + rank, int(found), f"{kind} {found - starts[groups[found]]}")
    return figure
