import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from click.testing import CliRunner

from extractors.errors import ConfigError
from flows import doctor
from flows.cli import main
from flows.models.build import profile_weights
from flows.models.weights import CHECKPOINTS
from flows.orchestration import settings as prefect_settings
from flows.orchestration.settings import check_server, find_server, prepare


def check(name, out):
    return next(check for check in doctor.examine(out) if check.name == name)


@pytest.fixture
def answering():
    """A web server that gives one answer to everything; call it with the answer and its status."""
    servers = []

    def start(body, status=200):
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *arguments):
                pass

        server = HTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/api"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_one_screen_names_devices_weights_codecs_server_and_disk(tmp_path):
    result = CliRunner().invoke(main, ["doctor", str(tmp_path)])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert len(lines) <= 24
    for name in ("processor", "devices", "weights", "video", "packets", "remote", "prefect", "output disk"):
        assert any(line[5:].startswith(name) for line in lines)


def test_json_has_a_grade_and_a_remedy_for_each(tmp_path, monkeypatch):
    monkeypatch.setenv("CUEPACK_MODELS", str(tmp_path / "none"))
    said = json.loads(CliRunner().invoke(main, ["doctor", str(tmp_path), "--json"]).stdout)
    weights = next(finding for finding in said["findings"] if finding["name"] == "weights")
    assert weights["grade"] == "note"
    assert "models fetch" in weights["todo"]
    assert str(tmp_path / "none") in weights["says"]


def test_weights_that_are_here_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CUEPACK_MODELS", str(tmp_path))
    (tmp_path / "cotracker3").mkdir()
    (tmp_path / "cotracker3" / "scaled_offline.pth").write_bytes(b"")
    assert "cotracker3" in check("weights", tmp_path).says


def fill(folder, names):
    for name in names:
        path = folder / name / CHECKPOINTS[name].file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
        (path.parent / "config.json").write_text("{}")


def test_it_says_which_profiles_can_run_and_which_under_open_licences(tmp_path, monkeypatch):
    monkeypatch.setenv("CUEPACK_MODELS", str(tmp_path))

    def said(licence):
        result = CliRunner().invoke(main, ["doctor", str(tmp_path), "--licence", licence, "--json"])
        findings = json.loads(result.stdout)["findings"]
        return next(finding for finding in findings if finding["name"] == "profiles")

    assert "cpu (no weights) can run" in said("open")["says"]
    assert "gpu-open lacks grounding-dino-tiny" in said("open")["says"]
    assert "models fetch grounding-dino-tiny sam-vit-base video_depth_anything_vits tapir" in said("open")["todo"]
    fill(tmp_path, profile_weights("gpu-open"))
    assert "gpu-open can run; gpu is not open (sam3: SAM License" in said("open")["says"]
    assert "cotracker3: CC-BY-NC-4.0" in said("open")["says"]
    assert "gpu lacks sam3, cotracker3" in said("any")["says"]
    fill(tmp_path, profile_weights("gpu"))
    assert "gpu-open, gpu can run" in said("any")["says"]
    assert said("any")["grade"] == "good"


def test_a_full_disk_is_noted_and_an_output_that_cannot_be_written_is_bad(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2e9}))
    assert check("output disk", tmp_path).grade == "note"
    monkeypatch.setattr(doctor.os, "access", lambda *arguments: False)
    assert check("output disk", tmp_path / "not" / "there").grade == "bad"


def test_a_server_that_does_not_answer_is_bad_and_fails_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    found = check("prefect", tmp_path)
    assert found.grade == "bad"
    assert "prefect server start" in found.todo
    assert CliRunner().invoke(main, ["doctor", str(tmp_path)]).exit_code == 1


def test_a_server_says_its_version(answering):
    assert find_server(answering("3.8.8")).version == "3.8.8"
    assert find_server(answering({}, status=401)).version is None


@pytest.mark.parametrize(("body", "status"), [({"some": "site"}, 200), ("gone", 404)])
def test_what_is_no_prefect_server_is_refused(answering, body, status):
    with pytest.raises(ConfigError, match="PREFECT_API_URL"):
        find_server(answering(body, status))


def test_a_server_of_another_major_version_is_refused(answering, monkeypatch):
    url = answering("2.20.1")
    settings = type("Settings", (), {"api": type("Api", (), {"url": url})})
    monkeypatch.setattr("prefect.settings.get_current_settings", lambda: settings)
    with pytest.raises(ConfigError, match=r"version 2\.20\.1"):
        check_server()
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert doctor._prefect()[0].grade == "bad"


def test_prefect_s_home_moves_into_the_output_where_the_user_s_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "read-only"))
    (tmp_path / "read-only").write_text("a file, so that no folder can be made below it, even by root")
    for name in prefect_settings.SETTINGS | prefect_settings.SERVER_SETTINGS:
        monkeypatch.setenv(name, "kept")
    prepare(tmp_path / "out")
    assert prefect_settings.os.environ["PREFECT_HOME"] == str(tmp_path / "out" / ".work" / "prefect")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "read-only" / "home"))
    with pytest.raises(ConfigError, match="--no-prefect"):
        prepare(tmp_path / "out")
