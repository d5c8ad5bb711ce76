"""What people said about episodes while looking at them: annotations.csv beside the manifest."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from extractors.errors import ConfigError, OutputError
from flows.output.directory import OutputDirectory
from packers.locks import held
from packers.plain_files import read_plain

ANNOTATIONS = "annotations.csv"
VERDICTS = ("accept", "reject", "")
LONGEST_NOTE = 2000

LONGEST_WAIT_S = 5.0
"""For another writer. One is done in milliseconds, in a second behind a URI; who holds the lock longer hangs."""

Verdict = Literal["accept", "reject", ""]


@dataclass(frozen=True, slots=True)
class Annotation:
    """A person's word on one episode.

    Attributes:
        verdict: "" where there is a note alone.
        note: free text.
    """

    verdict: Verdict = ""
    note: str = ""


def read_annotations(root: Path) -> dict[str, Annotation]:
    """Annotations of an output directory by episode id, {} where nobody wrote any.

    Raises:
        ConfigError: annotations.csv cannot be read, or has other columns or verdicts.
    """
    path = root / ANNOTATIONS
    try:
        # Spreadsheets put a byte order mark before the header; without -sig it would be part of "episode_id".
        text = read_plain(path).decode("utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as csv: {error}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        return dict(_annotations(path, reader))
    except csv.Error as error:  # a cell that never ends
        raise ConfigError(f"{path} cannot be read as csv: {error}") from error


def _annotations(path: Path, reader: csv.DictReader[str]) -> Iterator[tuple[str, Annotation]]:
    if not {"episode_id", "verdict"} <= set(reader.fieldnames or ()):
        raise ConfigError(f"{path}: wanted columns episode_id, verdict, note; got {list(reader.fieldnames or ())[:10]}")
    for row in reader:
        verdict = (row["verdict"] or "").strip()
        if verdict not in VERDICTS:
            raise ConfigError(
                f"{path}: verdict of {row['episode_id']} is {verdict!r}; write accept, reject, or nothing"
            )
        yield row["episode_id"], Annotation(cast("Verdict", verdict), row.get("note") or "")


def write_annotation(directory: OutputDirectory, episode_id: str, annotation: Annotation) -> None:
    """Keeps one annotation, replacing the episode's earlier one; an empty one removes it. Safe between processes.

    Raises:
        ConfigError: the verdict is none of `VERDICTS`, the note is too long or no text, or annotations.csv cannot be
            understood (it is then left alone).
        OutputError: it cannot be written, or somebody else has been writing for `LONGEST_WAIT_S`.
    """
    if annotation.verdict not in VERDICTS:
        raise ConfigError(f"wanted a verdict of {list(VERDICTS)}, got {annotation.verdict!r}")
    # Refused and not shortened: a person has to know what is kept.
    if len(annotation.note) > LONGEST_NOTE:
        raise ConfigError(f"the note has {len(annotation.note)} letters; {LONGEST_NOTE} are kept, so shorten it")
    try:
        annotation.note.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"the note holds half a letter, which no file can keep: {error.reason}") from error
    with _alone(directory.root / ".work" / "annotations.lock"), directory.undisturbed():
        # Read under the lock: an annotation that another process wrote a moment ago stays.
        kept = read_annotations(directory.root)
        kept[episode_id] = annotation
        if not annotation.verdict and not annotation.note:
            del kept[episode_id]
        table = io.StringIO(newline="")
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["episode_id", "verdict", "note"])
        # Sorted, so that the file does not depend on who looked at what first.
        writer.writerows([name, kept[name].verdict, kept[name].note] for name in sorted(kept))
        directory.write(ANNOTATIONS, table.getvalue())


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    deadline = time.monotonic() + LONGEST_WAIT_S
    while True:
        with held(lock, wait=False) as mine:
            if mine:
                yield
                return
        if time.monotonic() > deadline:
            raise OutputError(f"{lock} is held by another process; see which one writes annotations, and try again")
        time.sleep(0.02)
