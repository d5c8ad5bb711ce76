"""`cuepack select`: picks clips, and pins them in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extractors.errors import ConfigError
from flows.commands.options import FINISHED, OutputOrFile, print_json

if TYPE_CHECKING:
    from flows.output.directory import Opened
    from flows.output.selection import Candidate, Pick, Selected


@click.command()
@click.argument("given", type=OutputOrFile(), metavar="DIR|SCORES.csv")
@click.option("--top", type=click.IntRange(min=1), metavar="K", help="The K best.")
@click.option("--random", "drawn", type=click.IntRange(min=1), metavar="K", help="K drawn by --seed.")
@click.option("--min-score", type=click.FloatRange(0, 1), metavar="X", help="All that score X and more, 0 to 1.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes the draw and the split.")
@click.option("--stratify", type=click.Choice(["task"]), help="Take from every task in turn.")
@click.option(
    "--annotated",
    type=click.Choice(["accept", "not-reject"]),
    help="Only what the viewer's annotations accept, or do not reject.",
)
@click.option(
    "--min-active",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Only clips whose active span has S seconds or more.",
)
@click.option(
    "--min-moving",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Only clips whose object moves for S seconds or more.",
)
@click.option("--with-tag", "with_tags", multiple=True, metavar="TAG", help="Only clips with this tag; repeat.")
@click.option("--without-tag", "without_tags", multiple=True, metavar="TAG", help="Only clips without it; repeat.")
@click.option("--name", help="The file is selection-NAME.csv [default: from the options].")
@click.option(
    "--val-share", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Share of episodes for validation."
)
@click.option("--compare", type=OutputOrFile(), metavar="OTHER", help="Rank stability against another run.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def select(given: Opened, compare: Opened | None, as_json: bool, **options: Any) -> None:
    """Pick clips of an output DIR, or of a csv written by `cuepack score`, into a selection file.

    The file pins the episodes, their order and their split; `cuepack extract --selection` takes it. Equal clips and
    options give an equal file, whatever the order of the input.
    """
    from flows.output.selection import choose, moving, read_candidates, tagged

    pick = _pick(options, comparing=compare is not None)
    candidates = _admitted(given.directory.root, read_candidates(given.path), options["annotated"])
    candidates = tagged(candidates, options["with_tags"], options["without_tags"])
    least = {"motion_active_s": options["min_active"], "motion_object_s": options["min_moving"]}
    candidates = moving(candidates, {column: seconds for column, seconds in least.items() if seconds is not None})
    selection = choose(candidates, pick) if pick is not None else []
    result: dict[str, Any] = {"counts": _counts(candidates, selection)}
    if compare is not None:
        result["compare"] = _compared(candidates, read_candidates(compare.path), pick)
    if pick is not None:
        result |= _written(given, selection, options["name"] or pick.name)
    if as_json:
        episodes = [
            {"episode_id": s.candidate.episode_id, "order": s.order, "split": s.split, "score": s.candidate.score}
            for s in selection
        ]
        print_json("select", FINISHED, episodes=episodes, **result)
        return
    _print(result)


def _admitted(root: Path, candidates: list[Candidate], annotated: str | None) -> list[Candidate]:
    """The candidates that a person's verdict in annotations.csv admits."""
    if annotated is None:
        return candidates
    from flows.output.annotations import read_annotations

    said = read_annotations(root)
    admitted = {"accept"} if annotated == "accept" else {"accept", ""}
    verdicts = {name: note.verdict for name, note in said.items()}
    return [candidate for candidate in candidates if verdicts.get(candidate.episode_id, "") in admitted]


def _pick(options: dict[str, Any], *, comparing: bool) -> Pick | None:
    from flows.output.selection import Pick

    given = {name: options[name] for name in ("top", "drawn", "min_score") if options[name] is not None}
    if not given and comparing:
        return None
    if len(given) != 1:
        raise ConfigError("select wants one of --top K, --random K and --min-score X (or --compare OTHER alone)")
    shared = {"seed": options["seed"], "by_task": options["stratify"] == "task", "val_share": options["val_share"]}
    if "min_score" in given:
        return Pick("min-score", min_score=given["min_score"], **shared)
    return Pick("top" if "top" in given else "random", count=next(iter(given.values())), **shared)


def _counts(candidates: list[Candidate], selection: list[Selected]) -> dict[str, int]:
    return {
        "candidates": len(candidates),
        "without_score": sum(candidate.score is None for candidate in candidates),
        "selected": len(selection),
        "train": sum(item.split == "train" for item in selection),
        "val": sum(item.split == "val" for item in selection),
    }


def _compared(candidates: list[Candidate], others: list[Candidate], pick: Pick | None) -> dict[str, Any]:
    from flows.output.selection import choose, rank_stability

    stability = rank_stability(candidates, others)
    if pick is not None:
        chosen, chosen_by_other = (
            {s.candidate.episode_id for s in choose(given, pick)} for given in (candidates, others)
        )
        stability["chosen_by_both"] = len(chosen & chosen_by_other)
    return stability


def _written(given: Opened, selection: list[Selected], name: str) -> dict[str, Any]:
    from flows.output.selection import check_packets, selection_file, write_selection

    directory, file = given.directory, selection_file(name)
    if given.path.is_dir():
        check_packets(directory, selection)
    return {
        "selection": directory.name_of(directory.root / file),
        "sha256": write_selection(directory, file, selection),
    }


def _print(result: dict[str, Any]) -> None:
    counts = result["counts"]
    if counts["without_score"]:
        print(f"{counts['without_score']} of {counts['candidates']} episodes have no score", file=sys.stderr)
    if "selection" in result:
        print(
            f"{counts['selected']} of {counts['candidates']} episodes ({counts['train']} train, {counts['val']} val) "
            f"-> {result['selection']}"
        )
    if "compare" in result:
        compare = result["compare"]
        shown = ", ".join(f"{name} {'-' if tau is None else f'{tau:.3f}'}" for name, tau in compare["tau"].items())
        print(f"Kendall tau over {compare['episodes']} episodes: {shown}")
        if "chosen_by_both" in compare:
            print(f"chosen by both: {compare['chosen_by_both']} of {counts['selected']}")
