"""`cuepack calibrate` as a Prefect flow: a task for each set-up, and their results together in one file.

Import this module only after `flows.orchestration.settings.prepare()`: Prefect reads its settings when imported.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prefect import flow, tags, task
from prefect.artifacts import create_image_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.orchestration.handed import Handed
from flows.orchestration.server import start_for_runs
from flows.orchestration.settings import TAG, check_server
from flows.output.calibrations import SetUp
from flows.run.calibrate import PooledClip, grouped, solve_set_up, sorted_out, table, write_calibrations
from packers.viewer.contact_sheet import data_uri
from packers.viewer.hand import set_up_picture

log = logging.getLogger("cuepack")

MOST_PICTURES = 6
"""Set-ups that the dashboard shows a picture of; the file and the table have all."""

Result = tuple[list[SetUp], list[str]]


def calibrate_with_prefect(packets: Sequence[Path], out: Path, *, one_camera: bool = False) -> Result:
    """Solves the set-ups of packets as a flow run and writes the file.

    Raises:
        ConfigError: the Prefect server cannot be used.
        OutputError: the file cannot be written.
    """
    check_server()
    start_for_runs()
    with tags(TAG):
        return calibrate_set_ups(Handed((list(packets), out)), out.name, one_camera)


@flow(name="calibrate-set-ups", flow_run_name="{name}", validate_parameters=False)
def calibrate_set_ups(given: Handed[tuple[list[Path], Path]], name: str, one_camera: bool) -> Result:
    """Groups the packets by set-up, solves each, and writes what all of them tell."""
    packets, out = given.value
    clips, unusable = sorted_out(packets)
    groups = sorted(grouped(clips, one_camera=one_camera).items())
    under_way = [(group, solve_one.submit(Handed(group), set_up, one_camera)) for set_up, group in groups]
    solved = [(group, future.result()) for group, future in under_way]
    found = [each for _, each in solved]
    write_calibrations(out, found)
    _report(solved)
    return found, unusable


@task(name="calibrate", task_run_name="{set_up}", cache_policy=NO_CACHE, persist_result=False)
def solve_one(group: Handed[list[PooledClip]], set_up: str, one_camera: bool) -> SetUp:
    """The camera of one set-up."""
    return solve_set_up(set_up, group.value, one_camera=one_camera)


def _report(solved: Sequence[tuple[list[PooledClip], SetUp]]) -> None:
    """Table and pictures for the dashboard, which may be away: the file is written already."""
    with suppress(Exception):
        create_table_artifact(table([each for _, each in solved]), "calibrations", "Cameras of the set-ups")
        for group, each in solved[:MOST_PICTURES]:
            picture = set_up_picture(group[0].path, each.camera)
            if picture is not None:
                create_image_artifact(data_uri(picture), "calibration-picture", f"The hand re-projected: {each.name}")
