import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings

from extractors.errors import ConfigError
from flows.cli import main
from flows.orchestration import server
from flows.orchestration.deployments import Schedule, make_deployments
from flows.orchestration.server import server_at
from flows.orchestration.settings import server_answers
from flows.sources.sample import write_sample
from packers.reader import Packet
from tests.support import REPOSITORY, WITHOUT_MODELS, set_options
from tests.tools.screenshot import BROWSER, browser

CUEPACK = [sys.executable, "-c", "from flows.cli import main; main()"]
QUICK = set_options(*WITHOUT_MODELS, "run.profile=cpu")
OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture
def schedule(tmp_path):
    return Schedule(source="/data/bridge", out=tmp_path / "packets", cron="0 2 * * *", timezone="Europe/Berlin")


def by_flow(made):
    return {deployment.flow_name: deployment for deployment in made}


def test_the_batch_runs_on_its_schedule_one_at_a_time_and_takes_new_episodes(schedule):
    batch = by_flow(make_deployments(schedule))["extract-dataset"]
    assert batch.schedules[0].schedule.cron == "0 2 * * *"
    assert batch.schedules[0].schedule.timezone == "Europe/Berlin"
    assert (batch.concurrency_limit, batch.concurrency_options.collision_strategy.value) == (1, "ENQUEUE")
    assert batch.parameters["new_only"] is True
    assert batch.parameters["out"] == str(schedule.out)
    assert "batch" in batch.tags


def test_the_ui_is_told_what_a_rerun_takes(schedule):
    rerun = by_flow(make_deployments(schedule))["rerun-episode"]
    assert rerun.enforce_parameter_schema
    properties = rerun._parameter_openapi_schema.properties
    assert properties["episode_ids"]["minItems"] == 1
    stages = properties["from_stage"]["anyOf"][0]["enum"]
    assert stages == ["masks", "depth", "tracks", "calibration", "geometry", "placing", "quality", "pack"]
    assert all(each["description"] for each in properties.values())


def test_a_pool_also_gets_shards_and_workers_the_environment(schedule):
    made = by_flow(make_deployments(schedule, pool="gpus"))
    assert set(made) == {"extract-dataset", "rerun-episode", "rerun-failed", "extract-shard", "study-run"}
    for deployment in made.values():
        assert deployment.work_pool_name == "gpus"
        assert deployment.job_variables["env"]["PREFECT_LOGGING_EXTRA_LOGGERS"] == "cuepack"
        assert load_flow_from_entrypoint(deployment.entrypoint).name == deployment.flow_name


def test_a_cron_line_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--cron wants"):
        make_deployments(Schedule("/data", tmp_path, cron="every night"))


@pytest.fixture
def no_server(monkeypatch):
    """No server is named, neither by the environment nor by what tests before have left in Prefect's settings."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


@pytest.mark.usefixtures("no_server")
def test_deploy_without_a_server_says_what_to_do(tmp_path):
    result = CliRunner().invoke(main, ["deploy", "/data", "--out", str(tmp_path), "--pool", "cuepack"])
    assert result.exit_code == 2
    assert "cuepack serve" in result.output


def test_settings_are_checked_before_a_server_is_asked(tmp_path):
    command = ["deploy", "/data", "--out", str(tmp_path), "--pool", "cuepack", "--set", "masks.bakend=motion"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert "did you mean 'backend'" in result.output


@pytest.mark.usefixtures("no_server")
def test_a_port_that_another_program_has_is_named(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(server, "server_answers", lambda url: False)
        with pytest.raises(ConfigError, match=r"taken .* --port"), server_at(other.getsockname()[1]):
            pass


def test_the_file_of_deployments_names_flows_and_parameters_that_exist():
    content = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    flows = {}
    for deployment in content["deployments"]:
        flow = load_flow_from_entrypoint(deployment["entrypoint"])
        flows[flow.name] = deployment
        assert set(deployment.get("parameters", {})) <= set(flow.parameters.properties)
    assert flows["extract-dataset"]["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert f"extract-shard/{flows['extract-shard']['name']}" == "extract-shard/extract-shard"


class Api:
    """A Prefect server as the UI speaks to it."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/api"
        self._token = {}

    def __call__(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        if data is not None and not self._token:
            token = self("/csrf-token?client=test")["token"]
            self._token = {"Prefect-Csrf-Client": "test", "Prefect-Csrf-Token": token}
        headers = {"Content-Type": "application/json"} | self._token
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            raise

    def start(self, deployment, **parameters):
        found = self.patiently(f"/deployments/name/{deployment}")
        body = {"parameters": found["parameters"] | parameters}
        return self.patiently(f"/deployments/{found['id']}/create_flow_run", body)["id"]

    def patiently(self, path, body=None, seconds=60):
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self(path, body)
            except urllib.error.HTTPError as error:
                # `cuepack serve` says what it serves just before it registers it: not there, or the database busy.
                if error.code not in (404, 503) or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def state(self, run):
        return self(f"/flow_runs/{run}")["state"]

    def ended(self, run, seconds=240):
        deadline = time.monotonic() + seconds
        while (state := self.state(run))["type"] not in OVER:
            assert time.monotonic() < deadline, state
            time.sleep(1)
        return state

    def artifacts(self, run):
        found = self("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {artifact["key"]: artifact for artifact in found}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`cuepack serve` with a server of its own, over the sample's four episodes, one of them broken."""
    root = tmp_path_factory.mktemp("served")
    write_sample(root / "sample")
    source = root / "sample" / "bridge_raw"
    broken = next(source.rglob("put_can*/**/obs_dict.pkl"))
    shutil.copy(broken, root / "whole.pkl")
    broken.write_bytes(b"broken")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"PREFECT_HOME": str(root / "prefect"), "COLUMNS": "200"}
    environment.pop("PREFECT_API_URL", None)
    options = ["--port", str(port), "--cron", "0 2 * * *", "--set", "run.shard_size=2", *QUICK]
    command = [*CUEPACK, "serve", str(source), "--out", str(root / "robots"), *options]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(4)]
        try:
            assert f"http://127.0.0.1:{port}" in lines[0], lines
            yield Api(port), root, broken
        finally:
            process.terminate()
            process.wait(60)
    with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(Api(port).url + "/health", timeout=5):
        pytest.fail("the server outlived `cuepack serve`")


@pytest.mark.slow
def test_the_ui_starts_a_batch_and_a_rerun_replaces_a_packet(served):
    api, root, broken = served
    out = root / "robots"
    batch = api.start("extract-dataset/robots")
    state = api.ended(batch)
    assert (state["name"], state["message"]) == ("Some failed", "3 packed, 1 failed, 0 filtered")
    assert api(f"/flow_runs/{batch}")["name"] == "bridge_data_v2 default-camera episodes 0-3"
    found = api.artifacts(batch)
    assert set(found) == {"progress-robots", "failures-robots", "contact-sheet-robots", "summary-robots"}
    assert json.loads(found["failures-robots"]["data"])[0]["rerun"].startswith(
        f"cuepack rerun {out} tabletop_tray_put_can"
    )
    assert found["contact-sheet-robots"]["data"].startswith("data:image/jpeg;base64,")
    assert float(found["progress-robots"]["data"]) == 100

    packet = next(out.glob("packets/*/tabletop_box*.h5"))
    before = packet.stat()
    rerun = api.start(
        "rerun-episode/robots", episode_ids=[packet.stem], from_stage="geometry", settings=["masks.dilate=[4]"]
    )
    assert api.ended(rerun)["type"] == "COMPLETED"
    assert packet.stat().st_ino != before.st_ino
    with Packet(packet) as replaced:
        assert "masks/object_dilate4" in replaced.modalities
        assert "masks/object_dilate8" not in replaced.modalities
    assert "summary-robots" in api.artifacts(rerun)

    shutil.copy(root / "whole.pkl", broken)
    again = api.start("rerun-failed/robots")
    assert api.ended(again)["message"].startswith("1 packed, 0 failed")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_dashboard_works_behind_its_door(served, name):
    api, _, _ = served
    address = api.url.removesuffix("/api").replace("127.0.0.1", name)
    api.patiently("/deployments/name/rerun-failed/robots")
    with browser() as page:
        page.open(f"{address}/deployments", 2)
        deadline = time.monotonic() + 60
        # With the CSRF token that the pages fetch for themselves: this list is asked for by POST.
        while "rerun-failed" not in page.text():
            assert time.monotonic() < deadline, page.text()
            page.open(f"{address}/deployments", 4)
        page.open("data:text/html,foreign", 1)
        page.call("Runtime.evaluate", expression="1")
        foreign = (
            f"fetch('{address}/api/deployments/filter', {{method: 'POST', body: '{{}}', "
            "headers: {'content-type': 'text/plain'}}).then(a => 'read ' + a.status, e => 'refused')"
        )
        said = page.call("Runtime.evaluate", expression=foreign, awaitPromise=True)
    assert said["result"]["value"] == "refused"


@pytest.mark.slow
def test_a_run_for_another_place_is_refused_by_the_server_and_by_the_run(served):
    api, root, _ = served
    for parameters in ({"out": str(root / "elsewhere")}, {"source": "/etc"}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            api.start("extract-dataset/robots", **parameters)
        assert refused.value.code == 409
    run = api.start("extract-dataset/robots", settings=["masks.weights=/tmp/evil.pth"])
    state = api.ended(run)
    assert state["type"] == "FAILED"
    assert "masks.weights=/tmp/evil.pth" in state["message"]
    assert not (root / "elsewhere").exists()


@pytest.mark.slow
def test_the_server_refuses_parameters_that_make_no_sense(served):
    api, _, _ = served
    for parameters in ({"episode_ids": []}, {"episode_ids": ["x"], "from_stage": "nonsense"}, {"episode_ids": 3}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            api.start("rerun-episode/robots", **parameters)
        assert refused.value.code == 409


@pytest.mark.slow
def test_a_run_whose_process_is_killed_is_crashed_and_the_next_one_goes_on(served):
    api, root, _ = served
    out = root / "robots"
    shutil.rmtree(out, ignore_errors=True)
    run = api.start("extract-dataset/robots", settings=["run.shard_size=1", *QUICK[1::2]])
    deadline = time.monotonic() + 120
    while not list(out.glob("packets/*/*.h5")):
        assert time.monotonic() < deadline, api.state(run)
        time.sleep(0.05)
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if run.encode() in (folder / "environ").read_bytes() or run.encode() in (folder / "cmdline").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
    assert api.ended(run)["type"] in ("CRASHED", "COMPLETED")
    after = api.start("extract-dataset/robots", settings=["run.shard_size=1", *QUICK[1::2]])
    assert api.ended(after)["type"] == "COMPLETED"
    assert CliRunner().invoke(main, ["validate", str(out)]).exit_code == 0
    assert not list(out.glob("packets/*/.tmp-*"))


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [4, 9])
def test_serve_that_is_ended_while_it_starts_leaves_no_server(tmp_path, after_s):
    write_sample(tmp_path / "sample")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"PREFECT_HOME": str(tmp_path / "prefect")}
    environment.pop("PREFECT_API_URL", None)
    command = [*CUEPACK, "serve", str(tmp_path / "sample" / "bridge_raw"), "--out", str(tmp_path / "out")]
    with subprocess.Popen([*command, "--port", str(port)], env=environment, stdout=subprocess.DEVNULL) as serving:
        time.sleep(after_s)
        assert serving.poll() is None
        serving.terminate()
        serving.wait(60)
    time.sleep(1)
    assert not _processes_with(b"server", f"--port\0{port}".encode())


def _processes_with(*words):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if all(word in line for word in words):
                found.append(line)
    return found


@pytest.mark.slow
def test_a_batch_outlives_its_server(tmp_path):
    """The server is killed when the first packet is there: the batch ends well, says so, and leaves whole packets."""
    write_sample(tmp_path / "sample")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    environment["PREFECT_API_URL"] = Api(port).url
    start = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    batch = [*CUEPACK, "extract", str(tmp_path / "sample" / "bridge_raw"), "--set", "run.shard_size=1", *QUICK]
    out = tmp_path / "out"
    with subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + 120
        while not server_answers(Api(port).url):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        with subprocess.Popen(
            [*batch, "--out", str(out)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as running:
            while not list(out.glob("packets/*/*.h5")):
                assert running.poll() is None, running.stderr.read()
                time.sleep(0.05)
            server.kill()
            said, complained = running.communicate(timeout=900)
    assert running.returncode == 0, complained
    assert "4 packed" in said
    assert "Prefect server" in complained
    assert "Traceback" not in complained
    subprocess.run([*batch, "--out", str(tmp_path / "plain"), "--no-prefect", "-q"], env=environment, check=True)
    packets = [
        {each.name: each.read_bytes() for each in (tmp_path / name).glob("packets/*/*.h5")} for name in ("out", "plain")
    ]
    assert packets[0] == packets[1]


@pytest.mark.slow
def test_workers_of_a_pool_make_the_same_bytes(served):
    api, root, _ = served
    environment = os.environ | {"PREFECT_HOME": str(root / "client"), "PREFECT_API_URL": api.url}
    environment |= {"CUEPACK_SOURCE": "/data/in", "CUEPACK_OUT": "/data/out", "PREFECT_WORKER_QUERY_SECONDS": "2"}
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]

    def run(*command):
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True, cwd=REPOSITORY, timeout=240
        )

    run(*prefect, "work-pool", "create", "cuepack", "--type", "process")
    source = str(root / "sample" / "bridge_raw")
    said = run(*CUEPACK, "deploy", source, "--out", str(root / "spread"), "--pool", "cuepack")
    assert "extract-shard/extract-shard" in said.stdout
    assert len(api("/automations/filter", {})) >= 1
    plain = [*CUEPACK, "extract", source, *QUICK, "-q", "--episodes", "0,1", "--set", "run.shard_size=1"]
    run(*plain, "--out", str(root / "plain"), "--no-prefect")
    worker = [*prefect, "worker", "start", "--pool", "cuepack", "--limit", "2"]
    elsewhere = environment | {"CUEPACK_CACHE": str(root / "cache-of-worker")}
    environment["CUEPACK_CACHE"] = str(root / "cache-of-dispatcher")
    with subprocess.Popen(worker, env=elsewhere, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            run(*plain, "--out", str(root / "spread"), "--set", "run.engine=workers")
            # With URIs worker and dispatcher share no folder but what is behind these.
            by_uri = [f"file://{part}" if part == source else part for part in plain]
            run(*by_uri, "--out", f"file://{root / 'far'}", "--set", "run.engine=workers")
            again = run(*by_uri, "--out", f"file://{root / 'far'}", "--no-prefect")
        finally:
            process.terminate()
            process.wait(60)
    bytes_of = [
        {path.name: path.read_bytes() for path in (root / name).glob("packets/*/*.h5")}
        for name in ("plain", "spread", "far")
    ]
    assert len(bytes_of[0]) == 2
    assert bytes_of[0] == bytes_of[1] == bytes_of[2]
    assert "2 packed (2 of them before)" in again.stdout
    assert not list((root / "far").rglob("plan.json"))
    # Prefect 3.8.8 registers it, then fails to count the workers (see prefect.yaml); a later one may do without.
    subprocess.run([*prefect, "deploy", "--name", "nightly"], env=environment, check=False, cwd=REPOSITORY, timeout=240)
    assert api("/deployments/name/extract-dataset/nightly")["parameters"]["source"] == "/data/in"


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
def test_a_person_finds_shards_and_artifacts_on_the_run_s_page(served):
    api, _, _ = served
    runs = api("/flow_runs/filter", {"flow_runs": {"state": {"name": {"any_": ["Some failed"]}}}})
    with browser() as page:
        page.open(f"{api.url.removesuffix('/api')}/runs/flow-run/{runs[0]['id']}", 8)
        page.click("Artifacts", 3)
        text = page.text()
    assert runs[0]["name"] in text
    assert "Some failed" in text
    assert re.search(r"(?i)progress.*?progress-", text, re.S)
    assert "summary-" in text


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_ray_and_dask_make_the_same_bytes(served, engine):
    pytest.importorskip(
        f"prefect_{engine}", reason=f"prefect-{engine} is not installed: pip install 'cuepack[{engine}]'"
    )
    api, root, _ = served
    environment = os.environ | {"PREFECT_HOME": str(root / "client"), "PREFECT_API_URL": api.url}
    plain = [*CUEPACK, "extract", str(root / "sample" / "bridge_raw"), *QUICK, "-q", "--episodes", "0,1"]
    plain += ["--set", "run.shard_size=1", "--workers", "1"]
    for out, more in ((root / f"{engine}-local", ["--no-prefect"]), (root / engine, ["--set", f"run.engine={engine}"])):
        subprocess.run([*plain, "--out", str(out), *more], env=environment, check=True)
    bytes_of = [
        {path.name: path.read_bytes() for path in (root / name).glob("packets/*/*.h5")}
        for name in (f"{engine}-local", engine)
    ]
    assert len(bytes_of[0]) == 2
    assert bytes_of[0] == bytes_of[1]


@pytest.mark.slow
def test_two_command_lines_on_a_fresh_home_both_start(tmp_path):
    write_sample(tmp_path / "sample")
    environment = os.environ | {"PREFECT_HOME": str(tmp_path / "prefect")}
    environment.pop("PREFECT_API_URL", None)
    plain = [*CUEPACK, "extract", str(tmp_path / "sample" / "bridge_raw"), *QUICK, "-q", "--limit", "1"]
    started = [subprocess.Popen([*plain, "--out", str(tmp_path / name)], env=environment) for name in ("a", "b")]
    assert [process.wait(300) for process in started] == [0, 0]
    packets = [path.read_bytes() for path in sorted(tmp_path.glob("[ab]/packets/*/*.h5"))]
    assert len(packets) == 2
    assert packets[0] == packets[1]


def test_an_unreachable_server_is_said_before_any_work(tmp_path):
    write_sample(tmp_path / "sample")
    environment = os.environ | {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(tmp_path / "prefect")}
    command = [*CUEPACK, "extract", str(tmp_path / "sample" / "bridge_raw"), "--out", str(tmp_path / "out"), *QUICK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no Prefect server answers at http://127.0.0.1:9/api" in done.stderr
    assert "--no-prefect" in done.stderr
    assert not list((tmp_path / "out").glob("packets/*"))


def test_an_engine_without_prefect_is_refused(tmp_path):
    write_sample(tmp_path / "sample")
    command = ["extract", str(tmp_path / "sample" / "bridge_raw"), "--out", str(tmp_path / "out"), "--no-prefect"]
    result = CliRunner().invoke(main, [*command, *QUICK, "--set", "run.engine=dask"])
    assert result.exit_code == 2
    assert "drop --no-prefect" in result.output
