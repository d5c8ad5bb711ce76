import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from extractors.errors import ConfigError, CorruptDataError, OutputError, PacketError
from flows.cli import main
from flows.config import load_config
from flows.orchestration import plan_file
from flows.orchestration.plan_file import find_plan, hand_out, keep_rows, published, take_rows
from flows.output.annotations import Annotation, read_annotations, write_annotation
from flows.output.directory import OutputDirectory, RemoteDirectory
from flows.remote.mirror import is_placeholder
from flows.run.carry_out import carry_out, run_shard_plainly
from flows.run.plan import Request, make_plan, rerun_plans
from flows.sources.images import decode_rgb
from flows.sources.sample import SAMPLE
from flows.stages.pack import pack_episode
from packers.reader import Packet
from packers.validate import validate_packet
from tests.flows.remote_places import (
    SETTINGS,
    TWO,
    Silent,
    by_id,
    extract,
    local_packets,
    put_tree,
    remote_packets,
    two_episodes,
)


def cuepack(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def packed(memory, packed_files):
    """The URI of a source whose two episodes are packed in memory://store/out; nothing of it is in the cache."""
    for path, (content, created) in packed_files.items():
        memory.pipe_file(path, content)
        memory.store[path].created = created
    return "memory://data/bridge_raw"


def waiting(root):
    return list((root / ".work" / "pending").glob("*/*"))


def test_packets_have_the_bytes_of_a_local_run(packed, memory, tmp_path):
    for name in TWO:
        shutil.copytree(SAMPLE / "bridge_raw" / name, tmp_path / "in" / name)
    extract(tmp_path / "in", tmp_path / "local")
    assert remote_packets("store/out") == local_packets(tmp_path / "local")
    assert len(remote_packets("store/out")) == 2
    names = {path.rpartition("/")[2] for path in memory.ls("/store/out", detail=False)}
    assert names == {"packets", "manifest.parquet", "manifest.csv", "run.json", "config.yaml"}


def test_here_stay_placeholders_and_no_work(memory):
    _, plan = extract(two_episodes(), "memory://store/out")
    root = plan.request.out.root
    copies = list(root.glob("packets/*/*.h5"))
    assert len(copies) == 2
    assert all(is_placeholder(path) for path in copies)
    assert waiting(root) == []
    assert plan.request.out.name_of(root) == "memory://store/out"


def test_a_placeholder_that_root_may_read_is_no_packet_and_no_image(memory):
    """Permissions hold root off nothing: what such a file holds must do it."""
    _, plan = extract(two_episodes(), "memory://store/out")
    copy = next(plan.request.out.root.glob("packets/*/*.h5"))
    copy.chmod(0o644)
    with pytest.raises(PacketError), Packet(copy):
        pass
    assert validate_packet(copy)
    content = copy.read_bytes()
    assert content.startswith(b"\x00cuepack: not fetched yet")
    with pytest.raises(CorruptDataError):
        decode_rgb(content, "a placeholder")


def test_a_second_run_does_nothing_and_fetches_no_packet(packed, memory, monkeypatch):
    def get(self, path, target, **options):
        assert not path.endswith(".h5")
        return original(self, path, target, **options)

    original = MemoryFileSystem.get_file
    monkeypatch.setattr(MemoryFileSystem, "get_file", get)
    outcome, plan = extract(packed, "memory://store/out")
    assert (len(plan.finished), len(plan.jobs)) == (2, 0)
    assert outcome.exit_code == 0


def test_what_was_packed_a_minute_ago_and_what_another_machine_packed_is_found(memory, monkeypatch, tmp_path):
    packed = two_episodes()
    extract(packed, "memory://store/out")
    _, plan = extract(packed, "memory://store/out")
    assert (len(plan.finished), len(plan.jobs)) == (2, 0)
    monkeypatch.setenv("CUEPACK_CACHE", str(tmp_path / "other"))
    _, plan = extract(packed, "memory://store/out")
    assert (len(plan.finished), len(plan.jobs)) == (2, 0)


def test_what_another_run_put_since_the_plan_was_made_is_taken_up(memory, tmp_path, monkeypatch):
    source = two_episodes()
    late = make_plan(Request(source, OutputDirectory.open("memory://store/out"), load_config(assignments=SETTINGS)))
    monkeypatch.setenv("CUEPACK_CACHE", str(tmp_path / "elsewhere"))
    extract(source, "memory://store/out")
    monkeypatch.undo()
    monkeypatch.setenv("CUEPACK_CACHE", str(tmp_path / "cache"))
    assert len(late.jobs) == 2
    rows = carry_out(late, Silent(), run_shard_plainly).rows
    assert [row["stages_computed"] for row in rows] == ["", ""]


def test_a_changed_setting_takes_the_rest_from_the_packets_there(packed, memory, tmp_path):
    outcome, plan = extract(packed, "memory://store/out", "masks.dilate=[4]")
    assert {row["stages_computed"] for row in outcome.rows} == {"geometry;placing;quality;pack"}
    assert all(is_placeholder(path) for path in plan.request.out.root.glob("packets/*/*.h5"))
    extract(packed, tmp_path / "local", "masks.dilate=[4]")
    assert remote_packets("store/out") == local_packets(tmp_path / "local")


def test_a_changed_remote_file_is_done_again_and_no_other(packed, memory):
    before = remote_packets("store/out")
    image = next(path for path in memory.find("/data/bridge_raw/tabletop_tray") if "/images0/im_2." in path)
    other = next(path for path in memory.find("/data/bridge_raw/tabletop_tray") if "/images0/im_9." in path)
    memory.pipe_file(image, memory.cat_file(other))
    outcome, plan = extract(packed, "memory://store/out")
    assert len(plan.finished) == 1
    assert by_id(outcome)["tabletop_tray"]["stages_computed"].startswith("source;masks")
    after = remote_packets("store/out")
    assert [name.split("_put")[0] for name in before if before[name] != after[name]] == ["tabletop_tray"]


def test_a_vanished_file_costs_its_episode_and_its_packet_stays(packed, memory):
    before = remote_packets("store/out")
    image = next(path for path in memory.find("/data/bridge_raw/tabletop_tray") if "/images0/im_2." in path)
    memory.rm_file(image)
    outcome, _ = extract(packed, "memory://store/out")
    assert outcome.exit_code == 1
    row = by_id(outcome)["tabletop_tray"]
    assert (row["status"], row["error_type"]) == ("failed", "MissingDataError")
    assert row["sha256"] == before[row["packet"].rpartition("/")[2]]
    assert remote_packets("store/out") == before


def refuse_packets(monkeypatch, error):
    original = MemoryFileSystem.put_file
    tries = []

    def put(self, path, target, **options):
        if target.endswith(".h5"):
            tries.append(target)
            raise error
        return original(self, path, target, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    return tries


def test_a_put_that_fails_ends_the_run_and_the_next_only_puts(memory, monkeypatch):
    source = two_episodes()
    with monkeypatch.context() as patched:
        tries = refuse_packets(patched, ConnectionError("connection reset"))
        outcome, plan = extract(source, "memory://store/out", "run.workers=1", "run.shard_size=1")
    assert len(tries) == 3
    assert outcome.exit_code == 1
    assert isinstance(outcome.error, OutputError)
    assert "connection reset" in str(outcome.error)
    assert remote_packets("store/out") == {}
    assert len(waiting(plan.request.out.root)) == 1
    monkeypatch.setattr("flows.run.shard.pack_episode", _only_others(waiting(plan.request.out.root)[0].name))
    outcome, plan = extract(source, "memory://store/out", "run.workers=1", "run.shard_size=1")
    assert outcome.exit_code == 0
    assert sorted(row["stages_computed"] == "" for row in outcome.rows) == [False, True]
    assert waiting(plan.request.out.root) == []
    assert len(remote_packets("store/out")) == 2


def _only_others(name):
    def pack(path, *rest):
        assert path.name != name, "the packet that waited was made again"
        pack_episode(path, *rest)

    return pack


def test_refused_access_while_putting_is_not_tried_again(memory, monkeypatch):
    source = two_episodes()
    tries = refuse_packets(monkeypatch, PermissionError("Access Denied"))
    outcome, _ = extract(source, "memory://store/out", "run.workers=1")
    assert len(tries) == len(set(tries))
    assert "access refused" in str(outcome.error)


@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_torn_packet_there_is_never_taken_for_one(packed, memory, damage):
    before = remote_packets("store/out")
    path = next(path for path in memory.find("/store/out/packets") if "tray" in path)
    content = memory.cat_file(path)
    if damage == "remove":
        memory.rm_file(path)
    else:
        memory.pipe_file(path, content[:1000] if damage == "cut" else content[:-2000] + b"\1" + content[-1999:])
    settings = ["masks.dilate=[8, 20]"] if damage == "flip" else []
    if damage == "flip":  # of the right size: found when it is worked on
        extract(packed, "memory://store/out", "masks.dilate=[4]")
    outcome, _ = extract(packed, "memory://store/out", *settings)
    assert outcome.exit_code == 0
    assert remote_packets("store/out") == before


def test_a_kill_between_packet_and_put_costs_nothing_but_the_put(memory, tmp_path):
    code = (
        "import os, signal, sys\n"
        "from flows.remote.files import Remote\n"
        "from tests.flows.remote_places import extract\n"
        "original = Remote.put\n"
        "def put(self, path, name):\n"
        "    if name.endswith('.h5'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, path, name)\n"
        "Remote.put = put\n"
        "extract(sys.argv[1], sys.argv[2])\n"
    )
    out = f"file://{tmp_path / 'out'}"
    tray = SAMPLE / "bridge_raw" / "tabletop_tray"
    killed = subprocess.run([sys.executable, "-c", code, str(tray), out], env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert killed.returncode == -signal.SIGKILL
    assert local_packets(tmp_path / "out") == {}
    assert len(waiting(OutputDirectory.open(out).root)) == 1
    outcome, _ = extract(tray, out)
    assert [row["stages_computed"] for row in outcome.rows] == [""]
    extract(tray, tmp_path / "local")
    assert local_packets(tmp_path / "out") == local_packets(tmp_path / "local")
    assert not list((tmp_path / "out").rglob(".tmp-*"))


def test_packets_put_there_can_be_kept_here(memory):
    _, plan = extract(two_episodes(), "memory://store/out", "run.keep_local=true")
    assert local_packets(plan.request.out.root) == remote_packets("store/out")
    _, again = extract("memory://data/bridge_raw", "memory://store/out")
    assert len(again.finished) == 2


def test_a_packet_that_breaks_the_schema_is_not_put(memory, monkeypatch):
    finding = type("Finding", (), {"dataset": "pixels", "reason": "made up"})()
    monkeypatch.setattr("flows.output.remote_store.validate_packet", lambda path: [finding])
    outcome, _ = extract(two_episodes(), "memory://store/out")
    assert {(row["status"], row["error_type"]) for row in outcome.rows} == {("failed", "PacketError")}
    assert remote_packets("store/out") == {}


def test_rerun_finds_the_uri_of_the_source(packed, memory):
    run = json.loads(memory.cat_file("/store/out/run.json"))
    assert run["source"]["path"] == "memory://data/bridge_raw"
    out = OutputDirectory.open("memory://store/out")
    name = next(iter(out.manifest.rows()))
    before = remote_packets("store/out")
    (plan,) = rerun_plans(out, [name], force_from="geometry")
    outcome = carry_out(plan, Silent(), run_shard_plainly)
    assert [row["stages_computed"] for row in outcome.rows] == ["geometry;placing;quality;pack"]
    assert remote_packets("store/out") == before


def test_workers_elsewhere_get_the_plan_by_uri_and_their_rows_come_back(packed, memory, monkeypatch, tmp_path):
    config = load_config(assignments=[*SETTINGS, "run.engine=workers", "masks.dilate=[4]"])
    request = Request(packed, OutputDirectory.open("memory://store/out"), config)
    plan = make_plan(request)
    with published(plan) as file:
        assert file.startswith("memory://store/out/.work/plans/")
        hand_out(file, plan, 0)
        monkeypatch.setattr(plan_file, "_last", {})
        monkeypatch.setenv("CUEPACK_CACHE", str(tmp_path / "another-machine"))
        found = find_plan(file, 0)
        assert [job.episode_id for job in found.jobs] == [job.episode_id for job in plan.jobs]
        assert found.request.out.root != plan.request.out.root
        rows = run_shard_plainly(found, 0, found.jobs)
        keep_rows(file, 0, rows)
        assert [row["status"] for row in take_rows(file, 0)] == ["done", "done"]
        # The dispatcher merges those rows; a copy on the worker would one day bring them back after newer ones.
        assert not (found.request.out.root / ".work" / "rows.jsonl").exists()
        assert found.request.out.manifest.rows() == plan.request.out.manifest.rows()
    assert memory.find("/store/out/.work") == []


def test_commands_take_uris(packed, memory, tmp_path):
    out = "memory://store/out"
    assert cuepack("validate", out).output.endswith("2 packets, 0 findings\n")
    path = next(path for path in memory.find("/store/out/packets") if "tray" in path)
    assert "tabletop_tray" in cuepack("inspect", f"memory:/{path}").output
    assert cuepack("validate", f"memory:/{path}").exit_code == 0
    verified = cuepack("verify", out)
    assert (verified.exit_code, "2 packets, 0 findings" in verified.output) == (0, True)
    chosen = cuepack("select", out, "--top", 1, "--name", "best")
    assert chosen.output.strip().endswith(f"{out}/selection-best.csv")
    assert memory.cat_file("/store/out/selection-best.csv").startswith(b"# sha256=")
    exported = cuepack("view", out, "--export", tmp_path / "pages")
    assert "2 episodes" in exported.output
    lewm = cuepack("export", out, "--format", "lewm-hdf5", "--out", tmp_path / "train.h5")
    assert "2 packets" in lewm.output
    assert cuepack("score", packed, "--limit", 1).exit_code == 0


def test_findings_name_packets_by_uri(packed, memory):
    path = next(path for path in memory.find("/store/out/packets") if "tray" in path)
    memory.pipe_file(path, memory.cat_file(path)[:-1])
    result = cuepack("validate", "memory://store/out", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout.splitlines()[-1])["findings"]
    assert found[0]["packet"] == f"memory:/{path}"


def test_a_selection_there_is_taken_by_extract(packed, memory, tmp_path):
    cuepack("select", "memory://store/out", "--top", 1, "--name", "best")
    options = ["--no-prefect", *(part for setting in SETTINGS for part in ("--set", setting))]
    chosen = "memory://store/out/selection-best.csv"
    result = cuepack("extract", packed, "--out", tmp_path / "o", "--selection", chosen, *options)
    assert "1 packed" in result.output
    assert len(local_packets(tmp_path / "o")) == 1


def test_the_manifest_there_is_rebuilt_from_the_packets(packed, memory):
    before = OutputDirectory.open("memory://store/out").manifest.rows()
    memory.pipe_file("/store/out/manifest.parquet", b"garbage")
    result = cuepack("manifest", "rebuild", "memory://store/out")
    assert "memory://store/out/manifest.parquet" in result.output
    assert memory.cat_file("/store/out/manifest.parquet.unreadable") == b"garbage"
    after = OutputDirectory.open("memory://store/out").manifest.rows()
    assert {name: row["sha256"] for name, row in after.items()} == {n: row["sha256"] for n, row in before.items()}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["extract", "SOURCE", "--out", "memory://data/bridge_raw/out", "--no-prefect"], "is inside the source"),
        (["extract", "SOURCE", "--out", "s33://x/out"], "no protocol s33://"),
        (["extract", "SOURCE", "--out", "s3://[x/out"], "s3://[x/out is no URI"),
        (["view", "memory://store/out", "--export", "memory://pages"], "wants a path of this machine"),
        (["sample", "--out", "memory://sample"], "wants a path of this machine"),
        (["inspect", "memory://store/some.h5"], "not a packet of an output directory"),
        (
            ["inspect", "memory://store/out/packets/00/none.h5"],
            "packets/00/none.h5 does not exist",
        ),
        (["rerun", "memory://elsewhere", "x"], "memory://elsewhere is not a cuepack output directory"),
    ],
)
def test_what_makes_no_sense_is_refused(packed, arguments, said):
    result = cuepack(*[packed if each == "SOURCE" else each for each in arguments])
    assert result.exit_code == 2
    assert said in result.output


def test_an_output_that_is_a_file_uri_inside_a_local_source_is_refused(memory, tmp_path):
    put_tree(SAMPLE / "bridge_raw" / "tabletop_tray", "data/in")
    tray = SAMPLE / "bridge_raw" / "tabletop_tray"
    with pytest.raises(ConfigError, match="is inside the source"):
        extract(tray, f"file://{tray}/out")


def test_a_full_disk_there_is_told_from_a_full_cache_and_keeps_no_half_file(memory, tmp_path, monkeypatch):
    def full(self, path, target, **options):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalFileSystem, "put_file", full)
    with pytest.raises(OutputError, match="free space there") as caught:
        RemoteDirectory(f"file://{tmp_path}/out").remote.put(Path(__file__), "run.json")
    assert "CUEPACK_CACHE" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_a_usage_fault(packed, memory):
    lock = RemoteDirectory("memory://store/out").root / ".work" / "manifest.lock"
    lock.unlink()
    lock.mkdir()  # root would pass any permission
    result = cuepack("validate", "memory://store/out")
    assert result.exit_code == 2
    assert "manifest.lock cannot be written" in result.output
    assert "CUEPACK_CACHE" in result.output


def test_a_cache_that_is_full_is_a_usage_fault(packed, memory, monkeypatch):
    def full(self, *text, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MemoryFileSystem, "get_file", full)
    result = cuepack("validate", "memory://store/out")
    assert result.exit_code == 2
    assert "CUEPACK_CACHE" in result.output


def test_a_verdict_that_could_not_be_put_there_is_put_there_by_the_next_command(memory, monkeypatch, caplog):
    root = OutputDirectory.open("memory://store/out")
    write_annotation(root, "first", Annotation("accept"))

    def refuse(*_, **__):
        raise ConnectionError("network away")

    with monkeypatch.context() as away:
        away.setattr(MemoryFileSystem, "put_file", refuse)
        away.setattr("flows.remote.files.WAITS_S", ())
        with pytest.raises(OutputError, match="kept here"):
            write_annotation(root, "second", Annotation("reject", "a note"))
        with caplog.at_level("WARNING", "cuepack"):
            assert set(read_annotations(OutputDirectory.open("memory://store/out").root)) == {"first", "second"}
        assert "is on this machine only" in caplog.text
    assert b"second" not in memory.cat_file("/store/out/annotations.csv")
    assert set(read_annotations(OutputDirectory.open("memory://store/out").root)) == {"first", "second"}
    assert b"second" in memory.cat_file("/store/out/annotations.csv")
    # Nothing waits any more: what is written there by others is taken up again.
    memory.pipe_file("/store/out/annotations.csv", b"episode_id,verdict,note\nthird,accept,\n")
    assert set(read_annotations(OutputDirectory.open("memory://store/out").root)) == {"third"}
