import dataclasses
import hashlib
import io
import json
import re
import urllib.request

import httpx
import huggingface_hub
import pytest
import torch
from click.testing import CliRunner
from huggingface_hub.errors import GatedRepoError

from extractors.backends.tapir_network import TapirNetwork
from extractors.errors import WeightsError
from flows.cli import main
from flows.models.build import profile_weights
from flows.models.weights import CHECKPOINTS, checkpoint_digest, checkpoint_file, checkpoint_path, fetch_checkpoint
from tests.extractors.backends import tiny_models
from tests.parity import seed_model


@pytest.fixture(autouse=True)
def model_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CUEPACK_MODELS", str(tmp_path))
    return tmp_path


def models(*arguments):
    return CliRunner().invoke(main, ["models", *arguments])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_missing_file_is_named_with_its_hub_licence_and_the_way_on(name):
    checkpoint = CHECKPOINTS[name]
    with pytest.raises(WeightsError) as caught:
        checkpoint_path(name)
    for part in (checkpoint.file, checkpoint.repository, checkpoint.licence, checkpoint.without):
        assert part in str(caught.value)


def test_a_path_of_the_configuration_is_taken_as_it_is(tmp_path):
    (tmp_path / "mine.pth").write_bytes(b"x")
    assert checkpoint_path("cotracker3", str(tmp_path / "mine.pth")).name == "mine.pth"


def test_list_says_what_is_here():
    checkpoint_file("cotracker3").parent.mkdir(parents=True)
    checkpoint_file("cotracker3").write_bytes(b"x")
    listed = {row["name"]: row["here"] for row in json.loads(models("list", "--json").stdout)["models"]}
    assert listed["cotracker3"] is True
    assert listed["video_depth_anything_vits"] is False
    assert "CC-BY-NC-4.0" in models("list").output


def test_an_unreachable_hub_says_what_to_do_by_hand(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    result = models("fetch", "cotracker3")
    assert result.exit_code == 2
    for part in ("no network", "scaled_offline.pth", "facebook/cotracker3", "lucas-kanade"):
        assert part in result.output


def test_fetch_records_the_digest_and_check_finds_a_change(monkeypatch):
    def download(repository, file, local_dir):
        path = local_dir / file
        path.write_bytes(b"weights")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    path = fetch_checkpoint("cotracker3")
    assert len(path.with_name(path.name + ".sha256").read_text().strip()) == 64
    path.write_bytes(b"other weights")
    result = models("check", "cotracker3")
    assert result.exit_code == 1
    assert "has changed since it was fetched" in result.output


def test_check_of_a_file_that_is_no_checkpoint_fails():
    path = checkpoint_file("video_depth_anything_vits")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a checkpoint")
    assert models("check").exit_code == 1


def test_an_unknown_name_is_refused():
    assert models("fetch", "cotracker9").exit_code == 2


def fill(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_a_checkpoint_of_many_files_is_a_folder(tmp_path):
    folder = fill(checkpoint_file("grounding-dino-tiny").parent)
    assert checkpoint_path("grounding-dino-tiny") == folder
    assert checkpoint_path("sam3", str(fill(tmp_path / "mine"))) == tmp_path / "mine"
    (tmp_path / "mine" / "config.json").unlink()
    with pytest.raises(WeightsError, match="hub repository facebook/sam3"):
        checkpoint_path("sam3", str(tmp_path / "mine"))


def test_a_folders_digest_is_that_of_weights_configuration_and_tokenizer(tmp_path):
    folder = fill(tmp_path / "one")
    digest = checkpoint_digest(folder)
    (folder / "README.md").write_text("changes nothing")
    assert checkpoint_digest(folder) == digest == checkpoint_digest(fill(tmp_path / "two"))
    (folder / "tokenizer.json").write_text("{'a': 1}")
    assert checkpoint_digest(folder) != digest


def test_fetch_of_a_folder_takes_what_is_loaded_and_records_its_digest(monkeypatch):
    asked = {}

    def download(repository, *, allow_patterns, local_dir):
        asked.update(repository=repository, patterns=allow_patterns)
        return str(fill(local_dir))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert models("fetch", "sam-vit-base").exit_code == 0
    assert asked["repository"] == "facebook/sam-vit-base"
    assert "model.safetensors" in asked["patterns"]
    assert not any(name.endswith((".bin", ".h5")) for name in asked["patterns"])
    folder = checkpoint_file("sam-vit-base").parent
    assert folder.with_name("sam-vit-base.sha256").read_text().strip() == checkpoint_digest(folder)


def test_the_gate_says_how_to_ask_where_the_token_is_read_and_the_ways_on(monkeypatch):
    def refuse(*args, **kwargs):
        response = httpx.Response(403, request=httpx.Request("GET", "https://example.org"))
        raise GatedRepoError("403 Forbidden", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    result = models("fetch", "sam3")
    assert result.exit_code == 2
    for part in (
        "facebook/sam3",
        "ask for access",
        "HF_TOKEN",
        "hf auth login",
        "grounded-sam",
        "nano",
        "SAM License",
    ):
        assert part in result.output


def test_a_backends_name_fetches_all_that_it_needs(monkeypatch):
    fetched = []

    def download(repository, *, allow_patterns, local_dir):
        fetched.append(repository)
        return str(fill(local_dir))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert models("fetch", "grounded-sam").exit_code == 0
    assert fetched == ["IDEA-Research/grounding-dino-tiny", "facebook/sam-vit-base"]


@pytest.fixture
def on_the_web(monkeypatch):
    """Answers requests with these bytes and headers."""

    def put(data, promised=None):
        asked = []

        def urlopen(url, timeout):
            asked.append(url)
            answer = io.BytesIO(data)
            answer.headers = {"Content-Length": str(len(data) if promised is None else promised)}
            return answer

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        return asked

    return put


def test_a_file_on_the_web_is_fetched_listed_with_its_digest_and_checked(on_the_web):
    asked = on_the_web(b"weights")
    assert models("fetch", "tapir").exit_code == 0
    assert asked == ["https://storage.googleapis.com/dm-tapnet/bootstap/bootstapir_checkpoint_v2.pt"]
    row = next(row for row in json.loads(models("list", "--json").stdout)["models"] if row["name"] == "tapir")
    assert row["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert row["licence"] == "Apache-2.0"
    assert row["sha256"] in models("list").output
    result = models("check", "tapir")
    assert result.exit_code == 1
    assert "get bootstapir_checkpoint_v2.pt" in result.output


def test_a_download_that_is_cut_leaves_nothing(on_the_web):
    on_the_web(b"weig", promised=7)
    result = models("fetch", "tapir")
    assert result.exit_code == 2
    for part in ("wanted 7 bytes, 4 came", "bootstapir_checkpoint_v2.pt", "lucas-kanade"):
        assert part in result.output
    assert not list(checkpoint_file("tapir").parent.iterdir())


def test_random_weights_of_the_right_form_load_and_are_not_called_good():
    path = checkpoint_file("tapir-online")
    path.parent.mkdir(parents=True)
    torch.save(seed_model(TapirNetwork()).state_dict(), path)
    result = models("check", "tapir-online")
    assert result.exit_code == 0, result.output
    assert "tapir-online: loads, unpinned" in result.output
    assert "good" not in result.output
    (row,) = json.loads(models("check", "tapir-online", "--json").stdout)["models"]
    assert row["pinned"] is False


def test_weights_that_are_not_the_published_ones_are_refused_by_check_and_fetch(on_the_web, monkeypatch):
    path = checkpoint_file("tapir")
    published = dataclasses.replace(CHECKPOINTS["tapir"], sha256=hashlib.sha256(b"published").hexdigest())
    monkeypatch.setitem(CHECKPOINTS, "tapir", published)
    on_the_web(b"something else")
    result = models("fetch", "tapir")
    assert result.exit_code == 2
    assert "is not the published file" in result.output
    assert not list(path.parent.iterdir())
    path.write_bytes(b"something else")
    result = models("check", "tapir")
    assert result.exit_code == 1
    assert "is not the published bootstapir_checkpoint_v2.pt" in result.output
    on_the_web(b"published")
    assert models("fetch", "tapir").exit_code == 0


def test_pinned_sums_are_sha256():
    pinned = {name: checkpoint.sha256 for name, checkpoint in CHECKPOINTS.items() if checkpoint.sha256}
    assert set(pinned) == {"segment-anything", "video_depth_anything_vits"}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in pinned.values())


def test_the_open_profile_s_name_fetches_all_that_it_needs(monkeypatch):
    fetched = []
    monkeypatch.setattr(
        "flows.commands.models.fetch_checkpoint", lambda name: fetched.append(name) or checkpoint_file(name)
    )
    assert models("fetch", "gpu-open").exit_code == 0
    assert sorted(fetched) == sorted(profile_weights("gpu-open"))


def test_what_is_not_on_the_hub_says_where_it_is():
    result = models("fetch", "segment-anything")
    assert result.exit_code == 2
    assert "github.com/facebookresearch/segment-anything" in result.output


def test_check_loads_folders_as_their_backends_do():
    pytest.importorskip("transformers", reason="SAM needs the transformers package (extra `sam`)")
    folder = checkpoint_file("sam-vit-base").parent
    tiny_models.save_sam(folder)
    assert models("check", "sam-vit-base").exit_code == 0
    fill(checkpoint_file("grounding-dino-tiny").parent)
    result = models("check")
    assert result.exit_code == 1
    assert "sam-vit-base: loads, unpinned" in result.output
    assert "grounding-dino-tiny: " in result.output
