"""Which clips are taken: best, drawn, or above a threshold; and the file that pins them.

Nothing here depends on the order of the input, the machine, or a library's random numbers: draws and splits follow the
sha256 of the seed and the episode's id.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from extractors.errors import ConfigError, OutputError, PacketError
from extractors.instruction import task_key
from flows.output.directory import OutputDirectory
from flows.output.manifest import Manifest
from flows.output.study_tags import read_study_tags
from packers.plain_files import MAX_TABLE_BYTES, read_plain

NAME = re.compile(r"[A-Za-z0-9_.-]+")

_HASH_LINE = "# sha256="
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_SCORE_TOLERANCE = 1e-6
"""Scores are rounded to six places when they are made."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One episode that may be taken.

    Attributes:
        episode_id: names the packet, or the source's episode before extraction.
        score: in [0, 1], None where it could not be computed.
        language_instruction: "" where it is missing.
        source_id: the source's id, the same for all cameras of an episode.
        values: the other columns: sub-scores, n_frames, packet, sha256.
        tags: the packet's, and those of the latest study that held the episode out.
    """

    episode_id: str
    score: float | None
    language_instruction: str = ""
    source_id: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pick:
    """How clips are picked.

    Attributes:
        how: the `count` best, `count` drawn with `seed`, or all that score `min_score` and more.
        count: for "top" and "random".
        seed: fixes the draw, and the split.
        min_score: for "min-score".
        by_task: take from every task in turn, as evenly as the clips allow.
        val_share: share of episodes that go to the validation split.
    """

    how: Literal["top", "random", "min-score"]
    count: int = 0
    seed: int = 0
    min_score: float = 0.0
    by_task: bool = False
    val_share: float = 0.1

    @property
    def name(self) -> str:
        """The selection's name where none is given."""
        name = {
            "top": f"top{self.count}",
            "random": f"random{self.count}-seed{self.seed}",
            "min-score": f"score{self.min_score:g}",
        }[self.how]
        return f"{name}-by-task" if self.by_task else name


@dataclass(frozen=True, slots=True)
class Selected:
    """One episode of a selection, in its place."""

    candidate: Candidate
    order: int
    split: Literal["train", "val"]


def read_candidates(path: Path) -> list[Candidate]:
    """The episodes of an output directory's manifest (packed ones), or of a csv file of scores, sorted by id.

    Raises:
        ConfigError: the list is empty, a score is not a number from 0 to 1, an id occurs twice, or the
            manifest does not agree with itself or with the packets.
    """
    if path.is_dir():
        rows = _manifest_rows(path)
    elif path.exists():
        rows = _table_rows(path)
    else:
        raise ConfigError(f"nothing at {path}; name an output directory of `cuepack extract`, or a csv of scores")
    studied = read_study_tags(path) if path.is_dir() else {}
    candidates = [_candidate(row, path, studied) for row in rows]
    ids = [candidate.episode_id for candidate in candidates]
    if len(set(ids)) < len(ids):
        # Counting is quadratic: above 10,000 rows the message does without a name.
        twice = sorted({name for name in ids if ids.count(name) > 1}) if len(ids) < 10_000 else ["an id"]
        raise ConfigError(f"{path}: {twice[0]} occurs more than once; keep one row per episode")
    return sorted(candidates, key=lambda candidate: candidate.episode_id)


def choose(candidates: Iterable[Candidate], pick: Pick) -> list[Selected]:
    """The chosen episodes in order: best first, or as drawn.

    Raises:
        ConfigError: fewer episodes are there than asked for, or none reaches the threshold.
    """
    ranked = sorted(candidates, key=lambda candidate: _rank(candidate, pick))
    if pick.how != "random":
        # Without a score nothing can be said about being best or good enough; a draw does not ask.
        ranked = [candidate for candidate in ranked if candidate.score is not None]
    if pick.how == "min-score":
        chosen = [c for c in ranked if c.score is not None and c.score >= pick.min_score]
        if not chosen:
            best = f"the best has {ranked[0].score:.3f}" if ranked else "none has a score"
            raise ConfigError(f"no episode scores {pick.min_score:g} or more; {best}")
        chosen = _task_by_task(chosen) if pick.by_task else chosen
    else:
        if pick.count > len(ranked):
            raise ConfigError(
                f"{pick.count} episodes were asked for, but only {len(ranked)} are there"
                f"{' with a score' if pick.how == 'top' else ''}; ask for {len(ranked)} or fewer"
            )
        chosen = (_task_by_task(ranked) if pick.by_task else ranked)[: pick.count]
    val = _validation(chosen, pick)
    return [Selected(c, order, "val" if _group(c) in val else "train") for order, c in enumerate(chosen)]


def moving(candidates: Iterable[Candidate], least: Mapping[str, float]) -> list[Candidate]:
    """The candidates whose columns of motion (`manifest.MOTION_COLUMNS`) have `least` seconds each.

    Raises:
        ConfigError: no candidate has a column, as before `cuepack/3`, or none has that many seconds.
    """
    kept = list(candidates)
    for column, seconds in least.items():
        values = {c.episode_id: _number(c, column) for c in kept}
        if kept and all(value is None for value in values.values()):
            raise ConfigError(
                f"no episode has a number in {column}; extract with tracks, or again if the packets are old"
            )
        kept = [c for c in kept if (value := values[c.episode_id]) is not None and value >= seconds]
        if not kept:
            most = max(value for value in values.values() if value is not None)
            raise ConfigError(f"no episode has {seconds:g} s or more in {column}; the most has {most:g}")
    return kept


def tagged(candidates: Iterable[Candidate], with_tags: Sequence[str], without_tags: Sequence[str]) -> list[Candidate]:
    """The candidates that have all of `with_tags` and none of `without_tags`.

    Raises:
        ConfigError: none is left; says which tags there are.
    """
    before = list(candidates)
    kept = [c for c in before if set(with_tags) <= set(c.tags) and not set(without_tags) & set(c.tags)]
    if before and not kept:
        counts = Counter(tag for candidate in before for tag in candidate.tags)
        there = ", ".join(f"{tag} ({count})" for tag, count in counts.most_common(12)) or "no tags"
        raise ConfigError(f"no episode has these tags, and not those; the {len(before)} episodes have {there}")
    return kept


def write_selection(directory: OutputDirectory, name: str, selection: Sequence[Selected]) -> str:
    """Writes the selection file `name`, whose first line holds the sha256 of the rest, which is returned.

    Raises:
        OutputError: it cannot be written.
    """
    extra = sorted({name for item in selection for name in item.candidate.values})
    columns = ["episode_id", "order", "split", "score", *extra, "source_id", "language_instruction"]
    body = io.StringIO(newline="")
    writer = csv.writer(body, lineterminator="\n")
    writer.writerow(columns)
    for item in selection:
        candidate = item.candidate
        # One line per episode, so that the file can be read by tools that know no quoted newlines.
        instruction = _CONTROL.sub(" ", candidate.language_instruction).strip()
        values = [_text(candidate.values.get(name)) for name in extra]
        head = [candidate.episode_id, item.order, item.split, _text(candidate.score)]
        writer.writerow([*head, *values, candidate.source_id, instruction])
    content = body.getvalue().encode()
    digest = hashlib.sha256(content).hexdigest()
    with directory.undisturbed():
        directory.write(name, f"{_HASH_LINE}{digest}\n".encode() + content)
    return digest


def read_selection(path: Path) -> tuple[str, ...]:
    """Episode ids of a selection file, in its order; a csv file without the hash line is taken as it is.

    Raises:
        ConfigError: the file cannot be read, or was changed after `cuepack select` wrote it.
    """
    rows = _table_rows(path)
    ids = tuple(str(row["episode_id"]) for row in rows)
    if len(set(ids)) < len(ids):
        raise ConfigError(f"selection file {path} names an episode more than once; keep one row per episode")
    return ids


def rank_stability(candidates: Sequence[Candidate], others: Sequence[Candidate]) -> dict[str, Any]:
    """Kendall's tau-b (Kendall 1945; 1: same order, 0: unrelated, -1: reversed) between two scorings of the same clips.

    Returns:
        `episodes`: how many are in both; `tau`: of `score` and of each sub-score that both have, None where fewer than
        two episodes have it, or all have the same.

    Raises:
        ConfigError: no episode is in both.
    """
    from scipy.stats import kendalltau

    by_id, others_by_id = ({c.episode_id: c for c in scored} for scored in (candidates, others))
    common = sorted(by_id.keys() & others_by_id.keys())
    if not common:
        raise ConfigError("the two have no episode in common; compare runs on the same source and camera")
    tau: dict[str, float | None] = {}
    parts = {n for c in candidates for n in c.values if n.startswith("score_")}
    parts -= {"score_weight_missing", "score_at_most"}
    for name in ("score", *sorted(parts)):
        pairs = [(_number(by_id[i], name), _number(others_by_id[i], name)) for i in common]
        scored_by_both = [(a, b) for a, b in pairs if a is not None and b is not None]
        if name != "score" and not scored_by_both:
            continue
        varied = len({a for a, _ in scored_by_both}) > 1 and len({b for _, b in scored_by_both}) > 1
        tau[name] = round(float(kendalltau(*zip(*scored_by_both, strict=True)).statistic), 6) if varied else None
    return {"episodes": len(common), "tau": tau}


def selection_file(name: str) -> str:
    """The file's name of a selection.

    Raises:
        ConfigError: the name is not fit for a file.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"--name wants letters, digits and . _ -, got {name!r}")
    return f"selection-{name}.csv"


def _rank(candidate: Candidate, pick: Pick) -> tuple[Any, ...]:
    if pick.how == "random":
        return (_draw("draw", pick.seed, candidate.episode_id),)
    # Ties go by id: equal scores are common, and row order must not decide.
    return (-(candidate.score if candidate.score is not None else -1.0), candidate.episode_id)


def _draw(purpose: str, seed: int, name: str) -> int:
    """A number in [0, 2**256) that is the same everywhere."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}:{name}".encode()).digest(), "big")


def _task_by_task(ranked: Sequence[Candidate]) -> list[Candidate]:
    """The first of every task, then the second of every task, and so on; each round in ranked order."""
    rounds: dict[int, list[Candidate]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    for candidate in ranked:
        task = task_key(candidate.language_instruction)
        rounds[seen[task]].append(candidate)
        seen[task] += 1
    return [candidate for number in sorted(rounds) for candidate in rounds[number]]


def _group(candidate: Candidate) -> str:
    """All cameras of one episode go to one split."""
    return candidate.source_id or candidate.episode_id


def _validation(chosen: Sequence[Candidate], pick: Pick) -> set[str]:
    """Groups of the validation split.

    An episode falls to the same side in every selection made with one seed, so that the clips of one condition never
    train against those another is judged by. Where chance gives one side nothing, the nearest to the limit crosses.
    """
    # Another purpose than "draw": with one number for both, a random selection would take one side only.
    draws = {_group(candidate): _draw("split", pick.seed, _group(candidate)) for candidate in chosen}
    val = {name for name, draw in draws.items() if draw < pick.val_share * 2**256}
    if len(draws) > 1 and 0 < pick.val_share < 1:
        if not val:
            val = {min(draws, key=draws.__getitem__)}
        elif len(val) == len(draws):
            val.remove(max(draws, key=draws.__getitem__))
    return val


def _manifest_rows(root: Path) -> list[dict[str, Any]]:
    if not (root / "manifest.parquet").exists():
        raise ConfigError(f"{root} has no manifest.parquet; name an output directory of `cuepack extract`")
    try:
        rows = Manifest(root).rows()
    except OutputError as error:
        raise ConfigError(str(error)) from error
    _check_csv(root)
    done = [row for row in rows.values() if row.get("status") == "done"]
    if not done:
        raise ConfigError(f"{root} holds no packed episode ({len(rows)} are listed); extract some first")
    missing = [row for row in done if not row.get("packet") or not (root / str(row["packet"])).is_file()]
    if missing:
        raise ConfigError(
            f"the manifest of {root} lists {len(missing)} packets that are not there (first: "
            f"{missing[0]['episode_id']}); `cuepack manifest rebuild {root}` makes it again from the packets"
        )
    return done


def _check_csv(root: Path) -> None:
    """Raises ConfigError where manifest.csv, which people edit, says other than manifest.parquet, which is read."""
    csv_path = root / "manifest.csv"
    if not csv_path.exists():
        return
    # The merged rows alone, without the journal: the csv was written from the same.
    table = pd.read_parquet(root / "manifest.parquet", columns=["episode_id", "status", "score"])
    in_parquet = {
        row["episode_id"]: (row["status"], None if pd.isna(row["score"]) else float(row["score"]))
        for row in table.to_dict(orient="records")
    }
    listed = _table_rows(csv_path, ("episode_id", "status", "score"))
    in_csv = {row["episode_id"]: (row.get("status"), _parse_score(row, csv_path)) for row in listed}
    for name in sorted(in_parquet.keys() | in_csv.keys()):
        parquet_entry, csv_entry = in_parquet.get(name), in_csv.get(name)
        if (
            parquet_entry is None
            or csv_entry is None
            or parquet_entry[0] != csv_entry[0]
            or not _near(parquet_entry[1], csv_entry[1])
        ):
            raise ConfigError(
                f"{csv_path} and manifest.parquet disagree about {name}: one was edited by hand; "
                f"`cuepack manifest rebuild {root}` makes both again"
            )


def check_packets(directory: OutputDirectory, selection: Iterable[Selected]) -> None:
    """Raises ConfigError where a chosen packet gives itself another score than the manifest does."""
    from packers.reader import Packet

    selection = list(selection)
    root = directory.root
    directory.fetch(root / str(item.candidate.values["packet"]) for item in selection)
    for item in selection:
        candidate = item.candidate
        try:
            with Packet(root / str(candidate.values["packet"])) as packet:
                score = packet.attributes["scores"].get("score")
        except PacketError as error:
            raise ConfigError(f"a chosen packet cannot be read: {error}") from error
        # The packet's score is the computed one; the manifest is a table that anybody can edit.
        if not _near(score, candidate.score):
            raise ConfigError(
                f"the manifest gives {candidate.episode_id} the score {candidate.score}, its packet {score}: the "
                f"manifest was edited; `cuepack manifest rebuild {root}` makes it again"
            )


def _near(a: Any, b: Any) -> bool:
    return a is b or (a is not None and b is not None and abs(float(a) - float(b)) <= _SCORE_TOLERANCE)


def _table_rows(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Rows of a csv file, of `columns` alone where they are named; its hash line, where it has one, is checked."""
    try:
        content = read_plain(path, MAX_TABLE_BYTES)
        # Files without the line are lists that people made by hand.
        if content.startswith(_HASH_LINE.encode()):
            head, _, content = content.partition(b"\n")
            if hashlib.sha256(content).hexdigest() != head[len(_HASH_LINE) :].strip().decode(errors="replace"):
                raise ConfigError(f"selection file {path} was changed after it was written (its sha256 does not fit)")
        # Decoded as it is read: a manifest of a million episodes has a gigabyte.
        text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")
        reader = csv.DictReader(text, restkey="", restval="")
        names = reader.fieldnames or []
        if "episode_id" not in names:
            raise ConfigError(f"{path} has no column episode_id, only {list(names)[:10]}; make it with `cuepack score`")
        rows = [_only(_fitting(row, path, len(names)), columns) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as csv: {error}") from error
    if not rows:
        raise ConfigError(f"{path} lists no episode")
    return rows


def _fitting(row: dict[str, Any], path: Path, n_columns: int) -> dict[str, Any]:
    if "" in row or not row["episode_id"]:
        raise ConfigError(f"{path}: the row of {row['episode_id']!r} does not fit the {n_columns} columns")
    return row


def _only(row: dict[str, Any], columns: Sequence[str] | None) -> dict[str, Any]:
    return row if columns is None else {name: row[name] for name in columns if name in row}


def _candidate(row: Mapping[str, Any], path: Path, studied: Mapping[str, tuple[str, ...]]) -> Candidate:
    kept = ("n_frames", "packet", "sha256")
    values = {name: row[name] for name in row if name in kept or name.startswith(("score_", "motion_"))}
    return Candidate(
        episode_id=str(row["episode_id"]),
        score=_parse_score(row, path),
        language_instruction=str(row.get("language_instruction") or ""),
        source_id=str(row.get("source_id") or row["episode_id"]),
        values={name: value for name, value in values.items() if value not in (None, "")},
        tags=(*filter(None, str(row.get("tags") or "").split(";")), *studied.get(str(row["episode_id"]), ())),
    )


def _parse_score(row: Mapping[str, Any], path: Path) -> float | None:
    given = row.get("score")
    if given is None or given == "":
        return None
    try:
        score = float(given)
    except (TypeError, ValueError):
        raise ConfigError(f"{path}: the score of {row['episode_id']} is not a number: {given!r}") from None
    if math.isnan(score):
        return None
    if not 0 <= score <= 1:
        raise ConfigError(f"{path}: the score of {row['episode_id']} is {given}; a score is between 0 and 1")
    return score


def _number(candidate: Candidate, name: str) -> float | None:
    value = candidate.score if name == "score" else candidate.values.get(name)
    try:
        number = None if value is None else float(value)
    except ValueError:
        return None
    return None if number is None or math.isnan(number) else number


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
