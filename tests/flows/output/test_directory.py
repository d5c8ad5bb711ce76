"""One contract for every kind of output directory: on this machine, behind file:// and in memory."""

import hashlib

import pytest
from fsspec.core import url_to_fs

from extractors.errors import ConfigError
from flows.config import load_config
from flows.output.annotations import Annotation, read_annotations, write_annotation
from flows.output.directory import LocalDirectory, Opened, OutputDirectory
from flows.output.rebuild import rebuild_manifest
from flows.output.run_record import read_run, record_seconds, write_run
from flows.output.selection import Pick, check_packets, choose, read_candidates, read_selection, write_selection
from flows.run.carry_out import carry_out, run_shard_plainly
from tests.flows.batches import Silent, array_plan
from tests.support import ArraySource

KINDS = ("path", "file", "memory")


@pytest.fixture(params=KINDS)
def named(request, tmp_path, memory):
    return {"path": str(tmp_path / "out"), "file": f"file://{tmp_path}/out", "memory": "memory://store/out"}[
        request.param
    ]


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """From here on, another machine: nothing of the directory is in its cache."""

    def go():
        monkeypatch.setenv("CUEPACK_CACHE", str(tmp_path / "another-cache"))

    return go


def really_there(named, name):
    """The bytes of a file where the directory really is."""
    fs, root = url_to_fs(named)
    return fs.cat_file(f"{root}/{name}")


def pack(named, tmp_path, count=2):
    outcome = carry_out(array_plan(ArraySource(tmp_path / "in", count=count), named), Silent(), run_shard_plainly)
    assert outcome.exit_code == 0
    return {row["episode_id"]: row for row in outcome.rows}


def test_it_is_named_as_the_user_named_it(named):
    directory = OutputDirectory.open(named)
    assert directory.label == named
    assert directory.name_of(directory.root) == named
    assert directory.name_of(directory.root / "packets" / "ab" / "e.h5") == f"{named}/packets/ab/e.h5"
    assert OutputDirectory.open(directory.address).root.resolve() == directory.root.resolve()


def test_opening_makes_nothing_there(named):
    OutputDirectory.open(named)
    fs, root = url_to_fs(named)
    assert not fs.exists(root)


def test_a_file_written_at_the_top_is_there_and_found_from_elsewhere(named, elsewhere):
    OutputDirectory.open(named).write("config.yaml", "a: 1\n")
    assert really_there(named, "config.yaml") == b"a: 1\n"
    elsewhere()
    assert (OutputDirectory.open(named).root / "config.yaml").read_text() == "a: 1\n"


def test_a_file_is_replaced_and_what_others_replaced_is_taken_up(named):
    directory = OutputDirectory.open(named)
    directory.write("run.json", "{}")
    directory.write("run.json", '{"second": true}')
    assert really_there(named, "run.json") == b'{"second": true}'
    fs, root = url_to_fs(named)
    fs.pipe_file(f"{root}/run.json", b'{"third": true}')
    assert (OutputDirectory.open(named).root / "run.json").read_bytes() == b'{"third": true}'


def test_rows_are_there_once_merged(named, elsewhere):
    manifest = OutputDirectory.open(named).manifest
    manifest.add({"episode_id": "a", "episode_index": 0, "status": "done"})
    manifest.merge()
    elsewhere()
    assert OutputDirectory.open(named).manifest.rows()["a"]["status"] == "done"


def test_packets_are_there_with_the_bytes_that_the_manifest_says(named, tmp_path):
    rows = pack(named, tmp_path)
    for row in rows.values():
        assert hashlib.sha256(really_there(named, row["packet"])).hexdigest() == row["sha256"]


def test_packets_can_be_read_from_elsewhere_once_fetched(named, tmp_path, elsewhere):
    rows = pack(named, tmp_path)
    elsewhere()
    directory = OutputDirectory.open(named)
    paths = [directory.root / row["packet"] for row in rows.values()]
    assert [path.stat().st_size for path in paths] == [row["bytes"] for row in rows.values()]
    directory.fetch(paths)
    for path, row in zip(paths, rows.values(), strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
    directory.fetch(paths)


def test_a_second_store_finds_the_stages_in_the_packet(named, tmp_path, elsewhere):
    pack(named, tmp_path, count=1)
    elsewhere()
    store = OutputDirectory.open(named).store()
    found = store.packet_results("square_0")
    assert {"source", "masks", "quality", "pack"} <= found.keys()
    assert store.packet_results("nobody") == {}
    store.release("square_0")


def test_verdicts_and_selections_are_there(named, tmp_path, elsewhere):
    pack(named, tmp_path)
    directory = OutputDirectory.open(named)
    write_annotation(directory, "square_1", Annotation("reject", "blurred"))
    selection = choose(read_candidates(directory.root), Pick("random", count=1))
    check_packets(directory, selection)
    digest = write_selection(directory, "selection-one.csv", selection)
    elsewhere()
    again = OutputDirectory.open(named)
    assert read_annotations(again.root) == {"square_1": Annotation("reject", "blurred")}
    assert read_selection(again.root / "selection-one.csv") == (selection[0].candidate.episode_id,)
    assert really_there(named, "selection-one.csv").startswith(f"# sha256={digest}".encode())


def test_the_last_run_is_recorded_there(named, elsewhere):
    directory = OutputDirectory.open(named)
    with pytest.raises(ConfigError, match="is not a cuepack output directory"):
        read_run(directory)
    source = dict.fromkeys(("path", "asked", "kind", "dataset", "fingerprint"), "x")
    write_run(directory, load_config(), {"source": source})
    record_seconds(directory, work=1.23456)
    elsewhere()
    found = read_run(OutputDirectory.open(named))
    assert (found["source"], found["seconds"]) == (source, {"work": 1.235})


def test_the_manifest_is_made_again_from_the_packets(named, tmp_path, elsewhere):
    rows = pack(named, tmp_path)
    fs, root = url_to_fs(named)
    fs.rm_file(f"{root}/manifest.parquet")
    elsewhere()
    rebuilt = rebuild_manifest(OutputDirectory.open(named))
    assert sorted(rebuilt.made) == sorted(rows)
    elsewhere()
    again = OutputDirectory.open(named).manifest.rows()
    assert {name: row["sha256"] for name, row in again.items()} == {name: row["sha256"] for name, row in rows.items()}


def test_a_single_packet_can_be_named(named, tmp_path):
    row = next(iter(pack(named, tmp_path, count=1).values()))
    opened = Opened.open(f"{named}/{row['packet']}")
    assert hashlib.sha256(opened.path.read_bytes()).hexdigest() == row["sha256"]
    assert opened.label == f"{named}/{row['packet']}"


def test_one_writer_at_a_time_per_episode(named):
    store, second = OutputDirectory.open(named).store(), OutputDirectory.open(named).store()
    with store.locked(["e"]) as first, store.locked(["e", "other"]) as other, second.locked(["e", "third"]) as third:
        assert (first, other, third) == ({"e"}, {"other"}, {"third"})
    with second.locked(["e"]) as again:
        assert again == {"e"}


def test_a_table_of_scores_stands_in_its_folder(tmp_path):
    (tmp_path / "scores.csv").write_text("episode_id\n")
    opened = Opened.open(str(tmp_path / "scores.csv"))
    assert isinstance(opened.directory, LocalDirectory)
    assert opened.directory.root == tmp_path
