"""What a person finds under "Artifacts" of a run in the dashboard: progress, failures, a contact sheet, a summary.

A handful of API calls per run, whatever its size. A dashboard that cannot be written to costs a warning, never a run.
"""

from __future__ import annotations

import logging
import re
import shlex
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.output.costs import TABLE_HEAD, closing_line, cost_table, run_costs
from flows.output.directory import OutputDirectory
from flows.output.manifest import Row
from flows.run.progress import RunProgress
from packers.viewer.contact_sheet import contact_sheet, data_uri

log = logging.getLogger("cuepack")

MOST_FAILURES = 100
"""Rows of the failures table; all are in the manifest. Prefect keeps artifacts in its database for ever."""

SHEET_PACKETS = 6
"""Packets on the contact sheet: a picture of about 60 kB."""

PROGRESS_EVERY_S = 5.0
"""Seconds between two updates of the progress artifact."""

_REASON_CHARACTERS = 300


def artifact_key(kind: str, out: OutputDirectory) -> str:
    """`kind` and the output directory's name, spelled as Prefect wants keys: lower case, digits, dashes.

    Runs into one directory share their keys, so that the dashboard lists them as versions of one thing.
    """
    name = re.sub(r"[^a-z0-9]+", "-", PurePosixPath(out.label).name.lower()).strip("-")
    return f"{kind}-{name}" if name else kind


@contextmanager
def reported_progress(progress: RunProgress, out: OutputDirectory) -> Iterator[None]:
    """Keeps a progress artifact of the current flow run up to date meanwhile, from a thread of its own."""
    artifact = _written(
        "progress", lambda: create_progress_artifact(0.0, artifact_key("progress", out), progress.summary())
    )
    if artifact is None:
        yield
        return
    over = threading.Event()
    warned = False

    def update() -> None:
        nonlocal warned

        def write() -> Any:
            return update_progress_artifact(artifact, 100 * progress.fraction(), progress.summary())

        # Every five seconds the same warning would bury all others.
        warned = _written("progress", write, level=logging.DEBUG if warned else logging.WARNING) is None

    def keep_updating() -> None:
        while not over.wait(PROGRESS_EVERY_S):
            update()

    # A thread, because a shard may take minutes, and a server that hangs must not hold up the work.
    thread = threading.Thread(target=keep_updating, name="progress-artifact", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        # The last update comes after the thread has ended, or an older number could arrive last.
        thread.join()
        update()


def report_run(rows: Sequence[Row], out: OutputDirectory, *, seconds: float, workers: int) -> None:
    """Leaves the failures table, the contact sheet and the summary of a run at the current flow run.

    Args:
        rows: of the episodes that were worked on.
        out: the output directory.
        seconds: that the run took.
        workers: episodes that computed at once.
    """
    failed = [row for row in rows if row["status"] == "failed"]
    packed = [row for row in rows if row["status"] == "done"]
    if failed:
        _written("failures", lambda: _failures(failed, out))
    if packed:
        _written("contact sheet", lambda: _sheet(packed, out))
    _written(
        "summary",
        lambda: create_markdown_artifact(
            summary_text(rows, out, seconds=seconds, workers=workers), artifact_key("summary", out), "What the run made"
        ),
    )


def failure_rows(failed: Sequence[Row], out: OutputDirectory) -> list[dict[str, str]]:
    """The failures table: episode, stage, reason, and the command that tries again, at most `MOST_FAILURES` rows."""
    return [
        {
            "episode": str(row["episode_id"]),
            "stage": str(row.get("stage") or ""),
            "reason": _shortened(f"{row.get('error_type')}: {row.get('error')}"),
            "rerun": f"cuepack rerun {shlex.quote(out.label)} {row['episode_id']}",
        }
        for row in failed[:MOST_FAILURES]
    ]


def summary_text(rows: Sequence[Row], out: OutputDirectory, *, seconds: float | None = None, workers: int = 1) -> str:
    """Counts, scores, quality, tags and costs of a run, in Markdown; `seconds` and `workers` as in `closing_line`."""
    counts = Counter(str(row["status"]) for row in rows)
    packed = [row for row in rows if row["status"] == "done"]
    said = [
        f"# {counts['done']} packed, {counts['failed']} failed, {counts['filtered']} filtered"
        + (f", {counts['busy']} left to another run" if counts["busy"] else ""),
        f"Packets and manifest: `{out.label}`",
    ]
    said += _table(("score", "episodes", "mean", "least", "greatest"), _score_lines(packed))
    said += _table(("quality", "pass", "warn", "fail", "absent"), _quality_lines(packed))
    costs = run_costs(rows)
    if seconds is not None:
        said.append(closing_line(costs, seconds=seconds, workers=workers))
    said += _table(TABLE_HEAD, cost_table(costs))
    tags = Counter(tag for row in packed for tag in str(row.get("tags") or "").split(";") if tag)
    if tags:
        said.append("Tags: " + ", ".join(f"{tag} ({count})" for tag, count in tags.most_common(12)))
    return "\n\n".join(said) + "\n"


def _failures(failed: Sequence[Row], out: OutputDirectory) -> Any:
    kinds = Counter(str(row.get("error_type")) for row in failed)
    listed = f"the first {MOST_FAILURES} of {len(failed)}" if len(failed) > MOST_FAILURES else str(len(failed))
    return create_table_artifact(
        failure_rows(failed, out),
        artifact_key("failures", out),
        f"Failed episodes, {listed}; all are in manifest.csv. "
        + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()),
    )


def _sheet(packed: Sequence[Row], out: OutputDirectory) -> Any:
    # Evenly spread over the run, so that a camera that moved half way through is seen.
    step = max(1, len(packed) // SHEET_PACKETS)
    shown = packed[::step][:SHEET_PACKETS]
    packets = [out.root / str(row["packet"]) for row in shown]
    out.fetch(packets)
    sheet = contact_sheet(packets)
    lines = "\n".join(f"{number}. `{row['episode_id']}`" for number, row in enumerate(shown, 1))
    return create_image_artifact(
        data_uri(sheet),
        artifact_key("contact-sheet", out),
        f"Four moments of {len(shown)} packets, then depth; object outlined red, robot blue, tracks green. "
        f"From the top:\n\n{lines}",
    )


def _score_lines(packed: Sequence[Row]) -> list[tuple[str, ...]]:
    names = sorted({name for row in packed for name in row if name == "score" or name.startswith("score_")})
    lines: list[tuple[str, ...]] = []
    for name in names:
        values = [float(row[name]) for row in packed if row.get(name) is not None]
        if values and name != "score_weight_missing":
            mean = sum(values) / len(values)
            lines.append((name, str(len(values)), f"{mean:.3f}", f"{min(values):.3f}", f"{max(values):.3f}"))
    return lines


def _quality_lines(packed: Sequence[Row]) -> list[tuple[str, ...]]:
    names = sorted({name for row in packed for name in row if name.startswith("quality_")})
    lines: list[tuple[str, ...]] = []
    for name in names:
        found = Counter(str(row.get(name)) for row in packed)
        lines.append(
            (name.removeprefix("quality_"), *(str(found[status]) for status in ("pass", "warn", "fail", "absent")))
        )
    return lines


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    if not lines:
        return []
    rule = ["---"] * len(head)
    return ["\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))]


def _shortened(text: str) -> str:
    return text if len(text) <= _REASON_CHARACTERS else text[: _REASON_CHARACTERS - 1] + "…"


def _written(what: str, write: Callable[[], Any], *, level: int = logging.WARNING) -> Any:
    """The result of `write`; None, and a line in the log, where the dashboard cannot be written to."""
    try:
        return write()
    except Exception as error:  # a server that is away raises many kinds; none is worth a batch
        log.log(level, "the dashboard's %s cannot be written: %s: %s", what, type(error).__name__, error)
        return None
