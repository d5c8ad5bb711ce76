"""What studies said about held-out episodes: study-tags.csv beside the manifest, for `select` and the viewer."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from extractors.errors import ConfigError
from packers.atomic import write_whole
from packers.locks import held
from packers.plain_files import read_plain

STUDY_TAGS = "study-tags.csv"


def read_study_tags(root: Path) -> dict[str, tuple[str, ...]]:
    """Episode id -> tags of the latest study that held it out; {} where no study was made.

    Raises:
        ConfigError: the file cannot be read, or has other columns.
    """
    path = root / STUDY_TAGS
    try:
        rows = list(csv.DictReader(io.StringIO(read_plain(path).decode("utf-8-sig"), newline="")))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as csv: {error}; remove it, and run `cuepack study` again") from error
    if rows and not {"episode_id", "tags"} <= rows[0].keys():
        raise ConfigError(f"{path}: wanted columns episode_id, tags; got {list(rows[0])[:10]}")
    return {row["episode_id"]: tuple(tag for tag in (row["tags"] or "").split(";") if tag) for row in rows}


def write_study_tags(root: Path, tags: Mapping[str, Sequence[str]]) -> None:
    """Keeps `tags`, replacing earlier ones of the same episodes. Safe between processes.

    Raises:
        ConfigError: the file that is there cannot be read.
        OutputError: it cannot be written.
    """
    with held(root / ".work" / "study-tags.lock"):
        kept = {**read_study_tags(root), **tags}
        table = io.StringIO(newline="")
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["episode_id", "tags"])
        # Sorted, so that the file does not depend on which study came first.
        writer.writerows([name, ";".join(kept[name])] for name in sorted(kept))
        write_whole(root / STUDY_TAGS, table.getvalue())
