"""Each mend of wrong state and of an open door undone in a copy of the project, and the test that must then fail.

    python -m tests.tools.undo_mends            # all; about five minutes on one core
    python -m tests.tools.undo_mends locks ids  # some

A mend is known by a piece of source text and what it would be without the mend. Text that is no longer in the source is
an error, so that this table cannot fall behind the code. The tests are run with the mend first: they must pass.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = ("flows", "extractors", "scoring", "packers", "tests", "demo", "docs", "docker", ".ci")


@dataclass(frozen=True)
class Mend:
    """One mend: `new` in the place of `old` in `file` undoes it, and `test` fails then."""

    name: str
    file: str
    old: str
    new: str
    test: str


RUN, OUTPUT, FLOWS = "tests/flows/run", "tests/flows/output", "tests/flows/orchestration"
SOURCES = "tests/flows/sources"
VIEWING, SCORING = "tests/flows/viewing/test_server.py", "tests/scoring/test_invariance.py"

MENDS = (
    Mend(
        "1-changed-source",
        "flows/run/reuse.py",
        'return bool(row["packed_from"] == packed_from(stamp, mark))',
        'return row.get("source_stamp") == stamp',
        f"{RUN}/test_reuse.py::test_a_changed_source_is_packed_again_though_a_row_of_the_new_files_came_between",
    ),
    Mend(
        "2-seconds-not-frames",
        "extractors/timing.py",
        "return max(least, math.floor(seconds * check_rate(fps) + 0.5))",
        "return max(least, math.floor(seconds * 5.0 + 0.5))",
        "tests/extractors/test_contact.py::test_a_push_is_found_for_as_long_as_it_lasts_at_any_rate",
    ),
    Mend(
        "3-widths-not-pixels",
        "scoring/tracks.py",
        'xy, seen = tracks["xy"].astype(np.float64) / width',
        'xy, seen = tracks["xy"].astype(np.float64) / 224',
        f"{SCORING}::test_a_clip_is_judged_alike_at_any_packet_size",
    ),
    Mend(
        "4-no-fixed-stride",
        "extractors/geometry.py",
        "    parts = np.arange(most) + np.random.default_rng(seed).random(most)\n",
        "    return np.arange(0, count, count // most)[:most]\n"
        "    parts = np.arange(most) + np.random.default_rng(seed).random(most)\n",
        "tests/extractors/test_centroids.py::test_the_mapping_does_not_depend_on_width_and_length",
    ),
    Mend(
        "5-device-slot-of-windows",
        "extractors/track_windows.py",
        "self.device, self.precision = tracker.device, tracker.precision",
        'self.device, self.precision = type(tracker.device)("cpu"), tracker.precision',
        "tests/flows/models/test_device_slot.py::test_a_tracker_of_long_clips_takes_the_slot_of_the_one_it_wraps",
    ),
    Mend(
        "6-workers-keep-no-journal",
        "flows/orchestration/plan_file.py",
        "journal=not isinstance(out, RemoteDirectory),",
        "journal=True,",
        f"{OUTPUT}/test_remote_output.py::test_workers_elsewhere_get_the_plan_by_uri_and_their_rows_come_back",
    ),
    Mend(
        "6-newer-row-counts",
        "flows/output/manifest.py",
        'if _moment(row) >= _moment(rows.get(row["episode_id"])):',
        "if True:",
        f"{OUTPUT}/test_manifest.py::test_a_journal_left_behind_does_not_bring_old_rows_back",
    ),
    Mend(
        "7-living-writers",
        "packers/atomic.py",
        "if not is_held(temporary):",
        "if True:",
        "tests/packers/test_atomic.py::test_a_run_s_cleaning_leaves_what_a_living_writer_elsewhere_is_writing",
    ),
    Mend(
        "8-locks",
        "packers/locks.py",
        "yield lambda name: _take_byte(file.fileno(), name)",
        'yield lambda name: take(path.with_name(name).open("ab").fileno())',
        "tests/packers/test_locks.py::test_many_locks_take_one_descriptor_and_one_file",
    ),
    Mend(
        "9-peak-memory",
        "flows/run/machine.py",
        "    for peak in _measured:\n        peak.mb = now if math.isnan(peak.mb) else max(peak.mb, now)\n",
        "    for peak in _measured:\n        peak.mb = now\n",
        f"{RUN}/test_machine.py::test_another_thread_that_ends_does_not_take_the_peak_away",
    ),
    Mend(
        "10-our-own-runs",
        "flows/orchestration/deployments.py",
        'match_related={"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"},',
        "match_related={},",
        f"{FLOWS}/test_dispatch.py::test_the_watch_for_lost_runs_looks_at_our_own_alone",
    ),
    Mend(
        "11-ctrl-c-stops-shards",
        "flows/orchestration/dispatch.py",
        "            runs.cancel()\n",
        "            pass\n",
        f"{FLOWS}/test_dispatch.py::test_ctrl_c_stops_the_shards_that_are_under_way",
    ),
    Mend(
        "12-one-bad-row",
        "flows/viewing/server.py",
        "    except (KeyError, CuepackError) as error:\n        fault = _words(error)\n",
        "    except CuepackError as error:\n        fault = _words(error)\n",
        f"{VIEWING}::test_one_bad_row_leaves_the_other_pages",
    ),
    Mend(
        "13-event-loop",
        "flows/viewing/server.py",
        "await run_in_threadpool(_annotate, body, self._library)",
        "_annotate(body, self._library)",
        f"{VIEWING}::test_pages_answer_while_somebody_holds_the_annotations_lock",
    ),
    Mend(
        "14-the-card-s-name",
        "flows/models/device_slot.py",
        "    return torch.cuda.get_device_name(model.device)\n",
        "    return model.device.type\n",
        "tests/flows/stages/test_sweeps.py::test_a_packet_names_the_card_and_not_the_kind_of_device",
    ),
    Mend(
        "15-half-covered",
        "extractors/depth.py",
        "half_covered(covered)",
        "covered > 0.5",
        "tests/extractors/test_geometry.py::test_half_of_a_pixel_is_enough_for_masks_and_depth_alike",
    ),
    Mend(
        "16-list-of-episodes",
        "packers/export/lewm.py",
        "write_whole(index, _index(packets, offsets, lengths, splits or {}))",
        "index.write_text(_index(packets, offsets, lengths, splits or {}))",
        "tests/packers/export/test_lewm.py::test_a_list_of_episodes_that_cannot_be_written_leaves_the_old_one_whole",
    ),
    Mend(
        "16-cores",
        "packers/cores.py",
        "def usable_cpus() -> int:\n",
        "def usable_cpus() -> int:\n    return os.cpu_count() or 1\n\n\ndef _unused() -> int:\n",
        "tests/packers/test_cores.py::test_the_affinity_and_a_container_s_share_limit_the_cores",
    ),
    Mend(
        "16-verdicts",
        "flows/viewing/server.py",
        "site=site))",
        'site=""))',
        f"{VIEWING}::test_exports_of_one_title_keep_their_verdicts_apart",
    ),
    Mend(
        "16-ids",
        "flows/sources/base.py",
        "if identifier.casefold() in taken:",
        "if len(identifier) > _MAX_ID or identifier.casefold() in taken:",
        "tests/flows/sources/test_base.py::test_ids_of_different_episodes_differ_and_a_long_one_is_cut_once",
    ),
    Mend(
        "16-kept-pictures",
        "flows/viewing/library.py",
        "    def trim(self, most_bytes: int = MOST_KEPT_BYTES) -> None:\n",
        "    def trim(self, most_bytes: int = MOST_KEPT_BYTES) -> None:\n        return\n\n"
        "    def _unused(self, most_bytes: int = MOST_KEPT_BYTES) -> None:\n",
        f"{VIEWING}::test_kept_pictures_of_packets_that_changed_or_went_are_removed",
    ),
    Mend(
        "16-placeholders",
        "flows/remote/mirror.py",
        "                sparse.write(_NOT_FETCHED[: file.size])\n",
        "",
        f"{OUTPUT}/test_remote_output.py::test_a_placeholder_that_root_may_read_is_no_packet_and_no_image",
    ),
    Mend(
        "attack-1-named-formats",
        "flows/sources/lerobot_rows.py",
        "formats=PICTURE_FORMATS",
        "formats=None",
        f"{SOURCES}/test_hard_sources.py::test_a_cell_of_a_format_that_starts_programs_is_refused_unopened",
    ),
    Mend(
        "attack-2-own-pages",
        "flows/own_pages.py",
        'return None if _same_server(origin, host) else "refused: asked for by another site"',
        "return None",
        "tests/flows/test_own_pages.py::test_pages_of_other_sites_are_refused",
    ),
    Mend(
        "attack-2-served-places",
        "flows/orchestration/served.py",
        '        self._same("out", out, self.out)\n',
        "",
        f"{FLOWS}/test_served.py::test_a_batch_refuses_what_leads_elsewhere",
    ),
    Mend(
        "attack-3-sha256-first",
        "packers/admission.py",
        "if digest.hexdigest() != recorded:",
        "if False:",
        f"{VIEWING}::test_a_packet_of_a_wrong_sha256_is_shown_as_damaged_and_nothing_of_it_is_kept",
    ),
    Mend(
        "attack-5-torn-letter",
        "flows/output/manifest.py",
        "except (ValueError, RecursionError):\n                        row = None",
        "except KeyError:\n                        row = None",
        f"{OUTPUT}/test_manifest.py::test_a_journal_line_torn_inside_a_letter_costs_its_own_episode",
    ),
    Mend(
        "attack-6-damaged-database",
        "flows/orchestration/database.py",
        "    if fault is not None:\n",
        "    if False:\n",
        f"{FLOWS}/test_server.py::test_a_damaged_database_is_named_with_the_way_out",
    ),
    Mend(
        "attack-7-picture-bombs",
        "flows/sources/images.py",
        "if not 0 < size[0] * size[1] <= MAX_PIXELS:",
        "if False:",
        f"{SOURCES}/test_lerobot.py::test_a_picture_that_claims_to_be_huge_is_reported",
    ),
    Mend(
        "attack-7-one-long-text",
        "flows/sources/lerobot_tables.py",
        "if longest > MAX_TEXT_BYTES:",
        "if False:",
        f"{SOURCES}/test_parquet_footer.py::test_one_long_text_in_many_rows_is_refused_before_it_is_many",
    ),
    Mend(
        "attack-8-nested-json",
        "flows/sources/files.py",
        "    except (ValueError, RecursionError) as error:\n        why =",
        "    except ValueError as error:\n        why =",
        f"{SOURCES}/test_files.py::test_json_with_a_byte_order_mark_is_read_and_a_tower_refused",
    ),
    Mend(
        "attack-9-whole-notes",
        "flows/output/annotations.py",
        "if len(annotation.note) > LONGEST_NOTE:",
        "if False:",
        f"{VIEWING}::test_a_note_is_kept_whole_or_refused",
    ),
    Mend(
        "attack-10-pickles",
        "extractors/backends/checkpoints.py",
        "weights_only=True",
        "weights_only=False",
        "tests/extractors/backends/test_checkpoints.py::test_a_pickle_that_would_run_a_program_is_said_to_and_is_not_run",
    ),
)


def main() -> int:
    """The command line; 0 where each test passes with its mend and fails without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="mends by a part of their names; default: all")
    names = parser.parse_args().names
    wanted = [mend for mend in MENDS if not names or any(name in mend.name for name in names)]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in FOLDERS:
            shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".venv"))
        for path in REPOSITORY.iterdir():
            if path.is_file():
                shutil.copy(path, copy)
        for mend in wanted:
            kept, broken = _passes(copy, mend.test), _fails_without(copy, mend)
            wrong += not (kept and broken)
            said = f"{'passes' if kept else 'FAILS'} with, {'fails' if broken else 'PASSES'} without"
            print(f"{mend.name:26} {said:28} {mend.test.partition('::')[2]}", flush=True)
    print(f"{len(wanted)} mends, {wrong} without a test that tells")
    return 1 if wrong else 0


def _fails_without(copy: Path, mend: Mend) -> bool:
    path = copy / mend.file
    text = path.read_text()
    if text.count(mend.old) != 1:
        raise SystemExit(f"{mend.name}: its text is {text.count(mend.old)} times in {mend.file}; bring this table up")
    path.write_text(text.replace(mend.old, mend.new))
    try:
        return not _passes(copy, mend.test)
    finally:
        path.write_text(text)


def _passes(copy: Path, test: str) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]
    # The copy, not the installed project, is what the test imports.
    done = subprocess.run(command, cwd=copy, env={**_environment(), "PYTHONPATH": str(copy)}, capture_output=True)
    return done.returncode == 0


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    sys.exit(main())
