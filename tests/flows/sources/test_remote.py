import shutil
import stat
import threading

import pytest

from extractors.errors import MissingDataError, SourceError, UnreachableDataError
from flows.remote.mirror import is_placeholder
from flows.run.shard import LASTING_FAULTS, source_stamp
from flows.sources import remote as remote_source
from flows.sources.detect import open_source, source_location
from flows.sources.sample import SAMPLE
from tests.flows.remote_places import put_tree, two_episodes


def images(info):
    return [file for file in info.files if file.suffix in (".png", ".jpg")]


def test_listing_fetches_no_image_and_says_what_a_local_listing_says(memory):
    source = open_source(two_episodes())
    local = open_source(str(SAMPLE / "bridge_raw"))
    wanted = {info.episode_id: info for info in local.episodes()}
    infos = list(source.episodes())
    assert len(infos) == 2
    for info in infos:
        same = wanted[info.episode_id]
        assert (info.n_frames, info.language_instruction, info.cameras) == (
            same.n_frames,
            same.language_instruction,
            same.cameras,
        )
        assert all(is_placeholder(file) for file in images(info))
        assert all(stat.S_IMODE(file.stat().st_mode) == 0 for file in images(info))
        assert [f.stat().st_size for f in info.files] == [f.stat().st_size for f in same.files]
    assert source_location(source) == "memory://data/bridge_raw"


def test_opening_fetches_the_episode_and_gives_its_local_provenance(memory):
    source = open_source(two_episodes())
    first, second = source.episodes()
    episode = source.open(first)
    assert not any(is_placeholder(file) for file in first.files)
    assert all(is_placeholder(file) for file in images(second))
    local = open_source(str(SAMPLE / "bridge_raw"))
    same = local.open(next(info for info in local.episodes() if info.episode_id == first.episode_id))
    assert {**episode.provenance, "episode_index": 0} == {**same.provenance, "episode_index": 0}
    assert all((a == b).all() for a, b in zip(episode.pixels, same.pixels, strict=True))


def test_a_lerobot_data_set_comes_with_its_meta_folder_alone(memory):
    put_tree(SAMPLE / "lerobot_v30", "data/lerobot_v30")
    source = open_source("memory://data/lerobot_v30")
    info = next(source.episodes())
    whole = {
        file.relative_to(source.root).parts[0]
        for file in source.root.rglob("*")
        if file.is_file() and not is_placeholder(file)
    }
    assert whole == {"meta"}
    assert len(source.open(info).timestamp) == info.n_frames
    assert source.dataset == "lerobot_v30"


def test_loose_pictures_of_a_lerobot_data_set_are_fetched_at_once(memory):
    put_tree(SAMPLE / "lerobot_v30", "data/lerobot_v30")
    memory.pipe_file("/data/lerobot_v30/images/front/episode_000000/frame_000000.png", b"a picture")
    source = open_source("memory://data/lerobot_v30")
    assert (source.root / "images/front/episode_000000/frame_000000.png").read_bytes() == b"a picture"


def test_one_video_behind_a_uri_is_a_source(memory):
    video = next((SAMPLE / "lerobot_v30").rglob("*.mp4"))
    memory.pipe_file("/clips/put_cup_on_plate.mp4", video.read_bytes())
    memory.pipe_file("/clips/other.mp4", b"never looked at")
    source = open_source("memory://clips/put_cup_on_plate.mp4")
    info = next(source.episodes())
    assert (source.dataset, info.language_instruction) == ("put_cup_on_plate", "put cup on plate")
    assert len(source.open(info).timestamp) > 10


def test_a_changed_file_changes_its_episodes_stamp_alone_and_is_fetched_again(memory):
    uri = two_episodes()
    source = open_source(uri)
    before = {info.episode_id: source_stamp(info) for info in source.episodes()}
    for info in source.episodes():
        source.open(info)
    assert {info.episode_id: source_stamp(info) for info in open_source(uri).episodes()} == before
    first = next(source.episodes())
    lang = next(file for file in first.files if file.name == "lang.txt")
    memory.pipe_file(f"/data/bridge_raw/{lang.relative_to(source.root).as_posix()}", b"put it there\nconfidence: 1\n")
    after = {info.episode_id: (source_stamp(info), info.language_instruction) for info in open_source(uri).episodes()}
    assert after[first.episode_id][1] == "put it there"
    assert [name for name in before if after[name][0] != before[name]] == [first.episode_id]


def test_a_file_that_vanished_costs_its_episode_and_goes_from_the_copy(memory):
    uri = two_episodes()
    source = open_source(uri)
    first, second = source.episodes()
    gone = images(first)[3]
    memory.rm_file(f"/data/bridge_raw/{gone.relative_to(source.root).as_posix()}")
    with pytest.raises(MissingDataError, match="was there when the source was listed"):
        source.open(first)
    assert len(source.open(second).timestamp) == second.n_frames
    open_source(uri)
    assert not gone.exists()


def test_a_remote_that_does_not_answer_costs_the_episode_until_it_does(memory, monkeypatch):
    source = open_source(two_episodes())
    info = next(source.episodes())
    tries = []

    def fail(self, path, target, **options):
        tries.append(path)
        raise ConnectionError("connection reset")

    with monkeypatch.context() as patched:
        patched.setattr(type(memory), "get_file", fail)
        with pytest.raises(UnreachableDataError, match=r"cannot be reached.*connection reset"):
            source.open(info)
    assert max(tries.count(path) for path in tries) == 3
    assert "UnreachableDataError" not in LASTING_FAULTS
    assert len(source.open(info).timestamp) == info.n_frames


def test_a_fetch_that_ends_early_leaves_no_file(memory, monkeypatch):
    source = open_source(two_episodes())
    info = next(source.episodes())

    def half(self, path, target, **options):
        with open(target, "wb") as file:
            file.write(b"half")

    with monkeypatch.context() as patched:
        patched.setattr(type(memory), "get_file", half)
        with pytest.raises(UnreachableDataError, match="changed meanwhile"):
            source.open(info)
    assert all(is_placeholder(file) for file in images(info))
    assert not list((source.root.parent / "work").glob(".tmp-*"))
    assert len(source.open(info).timestamp) == info.n_frames


def test_several_that_open_at_once_all_get_whole_files(memory):
    # Not memory://, whose files have one position for all their readers.
    uri = f"file://{SAMPLE / 'bridge_raw'}"
    sources = [open_source(uri) for _ in range(3)]
    lengths = []

    def look(source):
        open_source(uri)
        lengths.extend(sum(1 for _ in source.open(info).pixels) == info.n_frames for info in source.episodes())

    threads = [threading.Thread(target=look, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [True] * 12


@pytest.mark.parametrize("folder", ["in", "images1"])
def test_pictures_of_other_cameras_stay_away_when_one_is_named(memory, folder):
    put_tree(SAMPLE / "bridge_raw" / "tabletop_tray", f"data/{folder}/tabletop_tray")
    base = next(path for path in memory.find(f"/data/{folder}") if "/images0/" in path).rpartition("/images0/")[0]
    for path in memory.find(f"{base}/images0"):
        memory.pipe_file(path.replace("/images0/", "/images1/"), memory.cat_file(path))
    source = open_source(f"memory://data/{folder}")
    info = next(source.episodes())
    source.open(info, "images0")
    others = [file for file in info.files if file.parent.name == "images1"]
    assert others
    assert all(is_placeholder(file) for file in others)
    assert len(source.open(info, "images1").timestamp) == info.n_frames


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s33://bucket/x", r"no protocol s33://; did you mean s3"),
        ("memory://nothing/here", "does not exist"),
        ("sftp://me:secret@host/x", "leave the password out"),
        ("s3://[bucket/x", r"s3://\[bucket/x is no URI"),
    ],
)
def test_a_uri_that_cannot_be_used_is_refused_with_what_to_do(memory, uri, said):
    with pytest.raises(SourceError, match=said) as caught:
        open_source(uri)
    assert "secret" not in str(caught.value)


def test_a_missing_package_is_named_with_how_to_install_it(memory, monkeypatch):
    def no_package(uri):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("flows.remote.files.url_to_fs", no_package)
    with pytest.raises(SourceError, match=r"Install s3fs.*pip install 'cuepack\[s3\]'"):
        open_source("s3://bucket/x")


def test_refused_access_says_where_credentials_come_from(memory, monkeypatch):
    def refuse(self, path, **options):
        raise PermissionError("Access Denied")

    two_episodes()
    monkeypatch.setattr(type(memory), "find", refuse)
    with pytest.raises(SourceError, match=r"access refused .*Access Denied.* credentials"):
        open_source("memory://data/bridge_raw")


def test_names_that_lead_out_of_the_folder_are_left_out(memory, monkeypatch, caplog):
    uri = two_episodes()
    original = type(memory).find

    def find(self, path, **options):
        odd = {"name": f"{path}/../../escaped.json", "size": 3, "type": "file"}
        return original(self, path, **options) | {odd["name"]: odd}

    monkeypatch.setattr(type(memory), "find", find)
    source = open_source(uri)
    assert "left out" in caplog.text
    assert not list(source.root.parent.parent.rglob("escaped.json"))


def test_a_link_out_of_a_file_uri_is_left_out(memory, tmp_path, caplog):
    shutil.copytree(SAMPLE / "bridge_raw" / "tabletop_tray", tmp_path / "in")
    (tmp_path / "secret.txt").write_text("of this machine")
    folder = next((tmp_path / "in").rglob("images0"))
    (folder.parent / "policy_out.json").symlink_to(tmp_path / "secret.txt")
    (folder.parent / "notes.json").symlink_to(folder.parent / "intrinsics.json")
    source = open_source(f"file://{tmp_path / 'in'}")
    assert {path.name for path in source.root.rglob("*.json")} >= {"notes.json"}
    assert not list(source.root.rglob("policy_out.json"))
    assert "leads out of the folder" in caplog.text


def test_a_full_disk_is_said_before_anything_is_fetched(memory, monkeypatch):
    uri = two_episodes()
    monkeypatch.setattr("flows.remote.mirror.shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(SourceError, match="set CUEPACK_CACHE to a folder on another disk"):
        remote_source.Copies(uri)


def test_a_data_set_called_work_keeps_its_copies_apart_from_ours(memory):
    put_tree(SAMPLE / "bridge_raw" / "tabletop_tray", "data/work")
    source = open_source("memory://data/work")
    source.open(next(source.episodes()))
    copied = {path.relative_to(source.root).as_posix() for path in source.root.rglob("*") if path.is_file()}
    assert copied == {path.removeprefix("/data/work/") for path in memory.find("/data/work")}


def test_a_cache_that_cannot_be_written_any_more_is_named(memory):
    uri = two_episodes()
    lock = remote_source.Copies(uri).mirror.root.parent / ".work" / "use.lock"
    lock.unlink()
    lock.mkdir()  # tests may run as root, whom permissions do not stop
    with pytest.raises(SourceError, match=r"use.lock cannot be written.*set CUEPACK_CACHE"):
        remote_source.Copies(uri)
