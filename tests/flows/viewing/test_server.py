import csv
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import get_args

import cv2
import h5py
import httpx
import numpy as np
import pytest
from click.testing import CliRunner

from extractors.errors import ConfigError
from flows.cli import main
from flows.output.annotations import Annotation, read_annotations, write_annotation
from flows.output.directory import OutputDirectory
from flows.output.manifest import Manifest
from flows.viewing.library import Library
from flows.viewing.server import export_site
from packers.locks import held
from packers.viewer.frames import PanelName
from tests.flows.viewing.served import SCRIPT, served, write_output
from tests.packers.examples import tamper, write_example

OWN = {"sec-fetch-site": "same-origin"}


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("view") / "an output"
    write_output(root)
    return root


@pytest.fixture(scope="module")
def address(output):
    with served(Library(output)) as address:
        yield address


def cuepack(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def payload(content: bytes):
    assert content.startswith(b"cuepack.receive(")
    return json.loads(content[len("cuepack.receive(") : -len(b");\n")])


def test_pages_data_and_pictures_are_served(address):
    assert "Episodes" in httpx.get(address).text
    overview = payload(httpx.get(f"{address}data/overview.js").content)
    assert overview["n"] == 6
    episode = payload(httpx.get(f"{address}data/a/ep_0/episode.js").content)
    # The example has every dataset, so every panel is there.
    assert episode["panels"] == list(get_args(PanelName))
    for panel in episode["panels"]:
        ending = "png" if panel == "masks" else "jpg"
        answer = httpx.get(f"{address}data/a/ep_0/{panel}-2.{ending}")
        image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
        # Frames 32 to 39 of 40: two rows of cells of 32 x 32 px, for frames of 24 x 32.
        assert image.shape[:2] == (2 * 32, 4 * 32)
        assert image.shape[2] == (4 if panel == "masks" else 3)


def test_pictures_are_kept_outside_the_packets_and_follow_them(output, address):
    packet = output / "packets" / "00" / "ep_0.h5"
    before = packet.read_bytes()
    first = httpx.get(f"{address}data/a/ep_0/rgb-0.jpg").content
    kept = list((output / ".work" / "view").rglob("rgb-0.jpg"))
    assert [file.read_bytes() for file in kept] == [first]
    assert packet.read_bytes() == before
    # As a batch does it: another file takes the place.
    other = packet.with_suffix(".new")
    other.write_bytes(before)
    tamper(other, lambda file: file["pixels"].__setitem__(Ellipsis, 255 - file["pixels"][()]))
    other.replace(packet)
    assert httpx.get(f"{address}data/a/ep_0/rgb-0.jpg").content != first
    packet.write_bytes(before)


@pytest.mark.parametrize(
    "path",
    [
        "data/a/../../config.yaml",
        "data/a/%2e%2e/%2e%2e/manifest.csv",
        "data/a/ep_0/..%2f..%2fmanifest.csv",
        "data/a/ep_0/%2e%2e",
        "..%2f..%2f..%2fetc%2fpasswd",
        "manifest.csv",
        "packets/00/ep_0.h5",
        "data/a/nobody/episode.js",
        "data/c/ep_0/episode.js",
        "data/b/ep_0/episode.js",
        "data/a/ep_0/rgb-99.jpg",
        "data/a/ep_0/rgb--1.jpg",
        "data/a/ep_0/config-0.jpg",
        "data/a/failed/rgb-0.jpg",
        "data/compare/ep_0.js",
        "viewer.css/..",
    ],
)
def test_nothing_else_is_served(address, path):
    with socket.create_connection((httpx.URL(address).host, httpx.URL(address).port)) as raw:
        # A plain socket: clients tidy paths before they send them.
        raw.sendall(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        status = raw.makefile("rb").readline()
    assert b" 404 " in status


def test_a_manifest_cannot_lead_out_of_the_directory(tmp_path):
    outside = write_example(tmp_path, "secret")
    rows = write_output(tmp_path / "out", count=1)
    rows["ep_0"]["packet"] = "../secret.h5"
    link = tmp_path / "out" / "packets" / "link.h5"
    link.symlink_to(outside)
    rows["failed"]["packet"] = "packets/link.h5"
    Manifest(tmp_path / "out").write(rows.values())
    library = Library(tmp_path / "out")
    for name in ("ep_0", "failed"):
        with pytest.raises(KeyError, match="outside"):
            library.packet(name)


def test_other_sites_are_refused(address):
    rebound = httpx.get(address, headers={"host": "evil.example:80"})
    assert rebound.status_code == 403
    embedded = httpx.get(
        f"{address}data/overview.js", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    )
    assert embedded.status_code == 403
    answer = httpx.get(address)
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert httpx.get(address, headers={"host": "localhost:80"}).status_code == 200


def test_annotations_are_taken_from_own_pages_only(output, address):
    said = {"episode_id": "ep_1", "verdict": "accept", "note": 'good, "clean"\ngrasp'}
    origin = {"origin": address.rstrip("/")}
    assert httpx.post(f"{address}annotations", json=said).status_code == 403
    assert httpx.post(f"{address}annotations", json=said, headers={"origin": "http://evil.example"}).status_code == 403
    plain = httpx.post(
        f"{address}annotations", content=json.dumps(said), headers=origin | {"content-type": "text/plain"}
    )
    assert plain.status_code == 415
    for wrong in ({**said, "verdict": "maybe"}, {**said, "note": 3}, {"episode_id": "ep_1"}, [1]):
        assert httpx.post(f"{address}annotations", json=wrong, headers=origin).status_code == 400
    unknown = httpx.post(f"{address}annotations", json={**said, "episode_id": "nobody"}, headers=origin)
    assert unknown.status_code == 404
    assert not (output / "annotations.csv").exists()
    before = httpx.get(f"{address}data/stamp").text
    assert httpx.post(f"{address}annotations", json=said, headers=origin).status_code == 200
    assert httpx.get(f"{address}data/stamp").text != before
    with (output / "annotations.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [said]
    (output / "annotations.csv").unlink()


def test_an_annotation_is_replaced_and_taken_back(tmp_path):
    write_annotation(OutputDirectory.open(tmp_path), "b", Annotation("reject", "blurred"))
    write_annotation(OutputDirectory.open(tmp_path), "a", Annotation("accept"))
    write_annotation(OutputDirectory.open(tmp_path), "b", Annotation("", "sharp after all"))
    assert read_annotations(tmp_path) == {"a": Annotation("accept"), "b": Annotation("", "sharp after all")}
    write_annotation(OutputDirectory.open(tmp_path), "b", Annotation())
    assert list(read_annotations(tmp_path)) == ["a"]


def test_an_annotation_file_that_is_not_understood_is_left_alone(tmp_path):
    (tmp_path / "annotations.csv").write_text("episode_id,verdict\na,perhaps\n")
    with pytest.raises(ConfigError, match="perhaps"):
        write_annotation(OutputDirectory.open(tmp_path), "b", Annotation("accept"))
    assert (tmp_path / "annotations.csv").read_text() == "episode_id,verdict\na,perhaps\n"


def test_a_running_batch_shows_up(tmp_path):
    root = tmp_path / "out"
    write_output(root, count=1)
    library = Library(root)
    before = library.stamp()
    assert "new" not in library.rows()
    Manifest(root).add({"episode_id": "new", "episode_index": 9, "status": "failed", "error": "no"})
    assert library.stamp() != before
    assert library.rows()["new"]["status"] == "failed"


def test_packets_without_a_manifest_are_listed_and_said_so(tmp_path):
    write_output(tmp_path / "out", count=2)
    for name in ("manifest.parquet", "manifest.csv"):
        (tmp_path / "out" / name).unlink()
    library = Library(tmp_path / "out")
    assert {"ep_0", "ep_1"} <= set(library.rows())
    assert "manifest rebuild" in library.notices()[0]


def test_a_damaged_packet_is_shown_as_such(output, address):
    episode = payload(httpx.get(f"{address}data/a/damaged/episode.js").content)
    assert "damaged" in episode["broken"]
    thumbnail = httpx.get(f"{address}data/a/damaged/thumb.jpg")
    assert thumbnail.status_code == 200
    assert cv2.imdecode(np.frombuffer(thumbnail.content, np.uint8), cv2.IMREAD_COLOR).shape == (128, 1280, 3)


def test_a_packet_of_a_wrong_sha256_is_shown_as_damaged_and_nothing_of_it_is_kept(tmp_path):
    root = tmp_path / "out"
    write_output(root, count=1)
    packet = root / "packets" / "00" / "ep_0.h5"
    with h5py.File(packet) as file:
        at = file["depth/relative"].id.get_chunk_info(3).byte_offset
    content = bytearray(packet.read_bytes())
    content[at + 512 : at + 540] = bytes(28)
    packet.write_bytes(content)
    library = Library(root)
    assert "do not have the sha256" in payload(library.file("ep_0", "episode.js"))["broken"]
    damaged = library.file("ep_0", "depth-0.jpg")
    assert library.file("ep_0", "rgb-0.jpg") == damaged
    assert not list((root / ".work" / "view").rglob("*.jpg"))


def test_a_directory_that_cannot_be_written_is_shown_all_the_same(tmp_path, monkeypatch):
    root = tmp_path / "out"
    write_output(root, count=1)

    def refuse(self, content):
        raise PermissionError(13, "no")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert payload(Library(root).file("ep_0", "episode.js"))["n_frames"] == 40


def test_the_export_is_whole_and_needs_no_server(output, tmp_path):
    site = tmp_path / "a site"
    result = cuepack("view", output, "--export", site)
    # One of the packets is damaged: its page says so, and the command too.
    assert result.exit_code == 1
    assert "damaged: " in result.stderr
    overview = payload((site / "data" / "overview.js").read_bytes())
    assert not overview["server"]
    assert str(output.parent) not in (site / "data" / "overview.js").read_text()
    names = {file.name for file in (site / "data" / "a" / "ep_0").iterdir()}
    assert {"episode.js", "thumb.jpg", "rgb-0.jpg", "rgb-2.jpg", "masks-2.png", "points-1.js"} <= names
    # Safe to repeat; but never over something else.
    assert cuepack("view", output, "--export", site).exit_code == 1
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("")
    refused = cuepack("view", output, "--export", tmp_path / "thesis")
    assert refused.exit_code == 2
    assert "something else" in refused.output
    assert cuepack("view", output, "--export", output / "packets" / "site").exit_code == 2


def test_a_hostile_instruction_travels_as_data(output):
    script = Library(output).overview(server=True)
    assert script.isascii()
    columns = {column["name"]: column for column in payload(script)["columns"]}
    assert SCRIPT in (columns["language_instruction"].get("texts") or columns["language_instruction"]["values"])


def test_ids_unfit_for_folders_get_another_name(tmp_path):
    root = tmp_path / "out"
    rows = write_output(root, count=1)
    rows["ep_0"]["episode_id"] = ".."
    Manifest(root).write(rows.values())
    library = Library(root)
    key = next(key for key, row in library.rows().items() if row["episode_id"] == "..")
    assert key.startswith("x-")
    assert payload(library.file(key, "episode.js"))["n_frames"] == 40


def test_compare_reports_differences(tmp_path):
    for name in ("one", "two"):
        write_output(tmp_path / name, count=1)
    moved = tmp_path / "two" / "packets" / "00" / "ep_0.h5"
    tamper(moved, lambda file: file["masks/object"].__setitem__(Ellipsis, np.roll(file["masks/object"][()], 3, axis=2)))
    library, other = Library(tmp_path / "one"), Library(tmp_path / "two")
    assert library.common(other) == ["ep_0", "damaged"]
    compared = payload(library.compared("ep_0", other))
    overlap = next(line for line in compared["agreement"] if line["name"].startswith("mask overlap"))
    # A 6 px wide square moved by 3 px: 3 columns of 9 in common.
    assert overlap["median"] == pytest.approx(1 / 3, abs=1e-4)
    assert compared["settings"] == []
    assert payload(library.compared("damaged", other))["notes"]
    with served(library, other) as address:
        assert httpx.get(f"{address}data/b/ep_0/episode.js").status_code == 200
        assert httpx.get(f"{address}data/compare/ep_0.js").status_code == 200


def test_single_packets_are_compared_whatever_their_names(tmp_path):
    a, b = write_example(tmp_path, "one"), write_example(tmp_path, "other")
    a = a.rename(tmp_path / "a b.h5")
    site = tmp_path / "site"
    assert cuepack("view", a, "--compare", b, "--export", site).exit_code == 0
    assert (site / "data" / "b" / payload((site / "data" / "overview.js").read_bytes())["keys"]["0"]).is_dir()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "sheet.png"])
def test_an_episode_is_rendered(tmp_path, name):
    packet = write_example(tmp_path, frames=9, height=96, width=128)
    result = cuepack("view", packet, "--render", tmp_path / name)
    assert result.exit_code == 0, result.output
    if name.endswith("png"):
        sheet = cv2.imread(str(tmp_path / name))
        assert sheet.shape[0] > 7 * 96
    else:
        video = cv2.VideoCapture(str(tmp_path / name))
        frames = []
        while (read := video.read())[0]:
            frames.append(read[1])
        assert len(frames) == 9
        assert all((a != b).any() for a, b in pairwise(frames))
    assert [file.name for file in tmp_path.glob(".*")] == []


def test_bad_usage_says_what_to_do(output, tmp_path):
    for arguments, said in (
        ((tmp_path / "absent",), "nothing at"),
        ((tmp_path,), "neither a manifest nor packets"),
        ((output, "--render", tmp_path / "a.png"), "one packet"),
        ((output / "packets" / "00" / "ep_0.h5", "--render", tmp_path / "a.webm"), ".mp4"),
        ((output, "--compare", output / "packets" / "ff" / "damaged.h5", "--render", tmp_path / "a.png"), "leave"),
    ):
        result = cuepack("view", *arguments)
        assert result.exit_code == 2
        assert said in result.output


def test_a_taken_port_is_named(output):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = cuepack("view", output, "--port", port, "--no-browser")
    assert result.exit_code == 2
    assert f"port {port}" in result.output
    assert "--port" in result.output


def test_the_command_serves_on_loopback_until_interrupted(output):
    command = [sys.executable, "-m", "flows.cli", "view", str(output), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            address = next(word for word in process.stdout.readline().split() if word.startswith("http"))
            assert address.startswith("http://127.0.0.1:")
            assert httpx.get(address).status_code == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(20) in (0, 130)  # 0 where the shell had it ignore Ctrl-C
        finally:
            process.kill()


def test_lewm_export_has_the_order_of_the_selection(output, tmp_path):
    shutil.copytree(output, tmp_path / "out", ignore=shutil.ignore_patterns("ff", ".work"))
    root = tmp_path / "out"
    rows = Manifest(root).rows()
    Manifest(root).write(row for row in rows.values() if row["episode_id"] != "damaged")
    (tmp_path / "selection.csv").write_text("episode_id\nep_2\nep_0\n")
    out = tmp_path / "train.h5"
    result = cuepack(
        "export", root, "--format", "lewm-hdf5", "--out", out, "--selection", tmp_path / "selection.csv", "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["frames"] == 80
    assert [line.split(",")[1] for line in Path(f"{out}.episodes.csv").read_text().splitlines()[1:]] == ["ep_2", "ep_0"]
    assert cuepack("export", root, "--format", "lewm-hdf5", "--out", tmp_path / "no" / "a.h5").exit_code == 2
    (tmp_path / "selection.csv").write_text("episode_id\nep_7\n")
    refused = cuepack("export", root, "--format", "lewm-hdf5", "--out", out, "--selection", tmp_path / "selection.csv")
    assert refused.exit_code == 2
    assert "ep_7" in refused.output


def test_rerun_export_says_what_is_missing_or_writes_recordings(output, tmp_path):
    result = cuepack("export", output / "packets" / "00" / "ep_0.h5", "--format", "rerun", "--out", tmp_path / "a.rrd")
    try:
        import rerun  # noqa: F401
    except ImportError:
        assert result.exit_code == 2
        assert "rerun-sdk is not installed" in result.output
    else:
        assert result.exit_code == 0, result.output
        assert (tmp_path / "a.rrd").read_bytes()[:3] == b"RRF"


def test_pages_answer_while_somebody_holds_the_annotations_lock(tmp_path, monkeypatch):
    root = tmp_path / "out"
    write_output(root, count=1)
    monkeypatch.setattr("flows.output.annotations.LONGEST_WAIT_S", 1.5)
    said = {"episode_id": "ep_0", "verdict": "accept", "note": ""}
    with served(Library(root)) as address, held(root / ".work" / "annotations.lock"), ThreadPoolExecutor(1) as pool:
        origin = {"origin": address.rstrip("/")}
        waiting = pool.submit(httpx.post, f"{address}annotations", json=said, headers=origin, timeout=20)
        pages = 0
        while not waiting.done():
            assert httpx.get(f"{address}data/stamp", timeout=1).status_code == 200
            pages += 1
        answer = waiting.result()
        assert pages > 3
    assert answer.status_code == 503
    assert "held by another process" in answer.text
    assert read_annotations(root) == {}


@pytest.mark.parametrize(
    ("note", "words"), [("a" * 2001, "2001 letters"), ("half \ud800 a letter", "half a letter"), ("ü" * 2000, None)]
)
def test_a_note_is_kept_whole_or_refused(tmp_path, note, words):
    root = tmp_path / "out"
    write_output(root, count=1)
    with served(Library(root)) as address:
        said = json.dumps({"episode_id": "ep_0", "verdict": "", "note": note})
        headers = {"origin": address.rstrip("/"), "content-type": "application/json"}
        answer = httpx.post(f"{address}annotations", content=said, headers=headers)
    if words is None:
        assert answer.status_code == 200
        assert read_annotations(root)["ep_0"].note == note
    else:
        assert answer.status_code == 400
        assert words in answer.text
        assert read_annotations(root) == {}


@pytest.mark.parametrize(
    "body", ["[" * 15_000, '{"episode_id": ["ep_0"], "verdict": {}, "note": 1}', '"\\ud800"', "\x00"]
)
def test_no_body_makes_the_server_fail(address, body):
    headers = {"origin": address.rstrip("/"), "content-type": "application/json"}
    assert httpx.post(f"{address}annotations", content=body, headers=headers).status_code == 400
    assert (
        httpx.post(f"{address}annotations", content=body, headers=headers | {"origin": "http://["}).status_code == 403
    )


def test_a_damaged_manifest_leaves_the_packets_to_look_at(tmp_path):
    root = tmp_path / "out"
    write_output(root, count=2)
    library = Library(root)
    (root / "manifest.parquet").write_bytes(b"PAR1 no more")
    with served(library) as address:
        overview = payload(httpx.get(f"{address}data/overview.js").content)
        assert "manifest rebuild" in overview["notices"][0]
        assert overview["n"] == 3
        assert httpx.get(f"{address}data/a/ep_1/episode.js").status_code == 200
        assert httpx.get(f"{address}data/a/nobody/episode.js").status_code == 404


@pytest.mark.parametrize("named", ["packets/\0.h5", "packets/" + "a" * 5000, "../elsewhere.h5", "packets/gone.h5"])
def test_one_bad_row_leaves_the_other_pages(tmp_path, named):
    root, site = tmp_path / "out", tmp_path / "site"
    rows = write_output(root, count=2)
    rows["ep_0"]["packet"] = named
    Manifest(root).write(row for row in rows.values() if row["episode_id"] != "damaged")
    if "\0" in named:  # the table writes it out, the journal does not
        Manifest(root).add(rows["ep_0"])
    result = cuepack("view", root, "--export", site)
    assert result.exit_code == 1
    assert "ep_0: " in result.stderr
    assert payload((site / "data" / "a" / "ep_1" / "episode.js").read_bytes())["n_frames"] == 40
    assert str(root) not in (site / "data" / "a" / "ep_0" / "episode.js").read_text()
    assert "broken" in payload((site / "data" / "a" / "ep_0" / "episode.js").read_bytes())
    assert payload((site / "data" / "overview.js").read_bytes())["n"] == 4


def test_exports_of_one_title_keep_their_verdicts_apart(tmp_path):
    sites = []
    for name in ("one", "two", "one"):
        root = tmp_path / name / "out"
        if not root.exists():
            write_output(root, count=1)
        export_site(Library(root), tmp_path / name / "site")
        sites.append(payload((tmp_path / name / "site" / "data" / "overview.js").read_bytes()))
    assert len({overview["title"] for overview in sites}) == 1
    assert sites[0]["site"] == sites[2]["site"] != sites[1]["site"]


def test_kept_pictures_of_packets_that_changed_or_went_are_removed(tmp_path):
    root = tmp_path / "out"
    write_output(root, count=3)
    library, cache = Library(root), root / ".work" / "view"
    for name in ("ep_0", "ep_1", "ep_2"):
        library.file(name, "rgb-0.jpg")
    packet = root / "packets" / "00" / "ep_0.h5"
    other = packet.with_suffix(".new")
    shutil.copy(packet, other)
    tamper(other, lambda file: file["pixels"].__setitem__(Ellipsis, 255 - file["pixels"][()]))
    other.replace(packet)
    library.file("ep_0", "rgb-0.jpg")
    assert len(list(cache.glob("*/ep_0/*"))) == 1
    (root / "packets" / "01" / "ep_1.h5").unlink()
    library.trim()
    assert {path.parent.parent.name for path in cache.rglob("rgb-0.jpg")} == {"ep_0", "ep_2"}
    library.trim(most_bytes=0)
    assert not list(cache.rglob("rgb-0.jpg"))


def test_kept_pictures_of_ids_that_begin_alike_are_spread_over_folders(tmp_path):
    root = tmp_path / "out"
    write_output(root, count=3)
    library = Library(root)
    folders = {
        library._cached(f"bridge_data_v2_{number}", library.packet("ep_0"), "thumb.jpg") for number in range(1000)
    }
    buckets = Counter(path.parents[2].name for path in folders)
    # A thousand ids over 256 folders of the cache: four in each, and by chance at most some more.
    assert len(buckets) > 240
    assert max(buckets.values()) < 20


def test_the_statistics_page_has_what_cuepack_stats_prints(output, address, tmp_path):
    assert 'href="stats.html"' in httpx.get(address).text
    assert "stats.js" in httpx.get(f"{address}stats.html").text
    page = payload(httpx.get(f"{address}data/stats.js").content)
    printed = json.loads(cuepack("stats", output, "--json").stdout)
    assert page["stats"] == printed["stats"]
    assert len(page["left_out"]) == printed["counts"]["left_out"]
    assert str(output.parent) not in json.dumps(page)
    export_site(Library(output), tmp_path / "site")
    assert payload((tmp_path / "site" / "data" / "stats.js").read_bytes()) == page


def test_the_statistics_page_says_what_the_stages_cost(tmp_path):
    costs = {"seconds_source": 1.0, "seconds_depth": 8.0, "device_seconds_depth": 6.0, "waited_device_depth": 2.0}
    row = {"episode_id": "ep_0", "episode_index": 0, "status": "done", "n_frames": 500, **costs}
    Manifest(tmp_path).write([row])
    found = payload(Library(tmp_path).statistics())["costs"]
    assert (found["frames"], found["device_s"]) == (500, 6.0)
    assert [line[0] for line in found["lines"]] == ["depth", "source"]
    assert found["lines"][0][found["head"].index("device seconds")] == "6.0"
    assert "2.0 for a device" in found["lines"][0]
