import json

import huggingface_hub
import pytest
from click.testing import CliRunner

from extractors.errors import WeightsError
from flows.cli import main
from flows.weights import CHECKPOINTS, checkpoint_file, checkpoint_path, fetch_checkpoint


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
