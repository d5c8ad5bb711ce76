"""What web pages and callers of the API can do to a server of cuepack's: a real one, attacked as they would."""

import os
import socket
import subprocess
import sys
import time

import httpx
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from extractors.errors import ConfigError
from flows.cli import main
from flows.config import NAMES_PLACES, Config
from flows.orchestration.deployments import Schedule, make_deployments
from flows.orchestration.flows import extract_dataset, rerun_episode, rerun_failed
from flows.orchestration.served import SERVED, Served, served_here
from flows.orchestration.server import StartedServer
from flows.orchestration.settings import answers_foreign_pages, check_token, prepare

SOURCE, OUT = "/data/bridge", "/data/packets"
EVIL = "http://evil.example"
TEXTS = {
    ("masks", "prompts"),
    ("masks", "robot_prompt"),
    ("geometry", "camera_model"),  # a name in a table
    ("geometry", "calibration_sha256"),  # what a file must be, not where it is
    ("robot", "urdf_sha256"),
    ("robot", "state_names"),  # names of numbers, joints and links
    ("robot", "joints"),
    ("robot", "hand_link"),
    ("robot", "prefix"),
    ("columns", "action"),
    ("columns", "state"),
    ("columns", "gripper"),
}
"""Settings of free text that name neither files nor machines."""


@pytest.fixture
def served(monkeypatch):
    found = Served(SOURCE, OUT, ("depth.weights=/models/depth.pth",))
    monkeypatch.setenv(SERVED, found.as_environment()[SERVED])
    return found


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"source": "/etc"}, "source=/etc"),
        ({"source": f"{SOURCE}/../../etc"}, "source="),
        ({"source": "s3://elsewhere/bridge"}, "source="),
        ({"out": "/home/me"}, "out=/home/me"),
        ({"out": f"{OUT}/.."}, "out="),
        ({"config_file": "/etc/passwd"}, "config_file=/etc/passwd"),
        ({"config_file": f"{OUT}/config.yaml"}, "config_file="),
        ({"selection": "/etc/passwd"}, "selection=/etc/passwd"),
        ({"selection": f"{OUT}/../../etc/passwd"}, "selection="),
        ({"selection": "s3://elsewhere/best.csv"}, "selection="),
        ({"settings": ["masks.weights=/tmp/evil.pth"]}, "masks.weights=/tmp/evil.pth"),
        ({"settings": ["depth.weights=/tmp/evil.pth"]}, "depth.weights"),
        ({"settings": ["tracks.weights=//host/share.pth"]}, "tracks.weights"),
        ({"settings": ["run.engine=dask", "run.engine_address=tcp://evil.example:1"]}, "run.engine=dask"),
        ({"settings": ["run.engine_address=tcp://evil.example:1"]}, "run.engine_address"),
        ({"settings": ["source.follow_links=true"]}, "source.follow_links"),
    ],
)
def test_a_batch_refuses_what_leads_elsewhere(served, asked, named):
    """In the flow itself: whoever reaches the API may have changed the deployment's parameter schema."""
    with pytest.raises(ConfigError) as refused:
        extract_dataset.fn(**{"source": SOURCE, "out": OUT} | asked)
    assert named in str(refused.value)


@pytest.mark.parametrize("flow", [rerun_episode, rerun_failed])
@pytest.mark.parametrize("asked", [{"out": "/home/me"}, {"settings": ["masks.weights=/tmp/evil.pth"]}])
def test_reruns_refuse_it_too(served, flow, asked):
    more = {"episode_ids": ["a"]} if flow is rerun_episode else {}
    with pytest.raises(ConfigError, match=r"served"):
        flow.fn(**{"out": OUT} | more | asked)


def test_what_is_served_may_be_asked_for(served):
    served.check(f"{OUT}/", SOURCE, ["masks.dilate=[4]", "depth.weights=/models/depth.pth"])
    served.check(OUT, settings=["depth.weights=none"], selection=f"{OUT}/selection-best.csv")


def test_every_setting_of_free_text_is_known_to_name_a_place_or_none():
    def texts(section, name):
        for key, field in type(section).model_fields.items():
            value = getattr(section, key)
            if isinstance(value, BaseModel):
                yield from texts(value, key)
            elif "str" in str(field.annotation).replace("Literal", ""):
                yield name, key

    free = {found for name, section in Config() if isinstance(section, BaseModel) for found in texts(section, name)}
    assert free - TEXTS - NAMES_PLACES == set()


def test_a_variable_that_says_nothing_limits_nothing_silently(monkeypatch):
    monkeypatch.delenv(SERVED, raising=False)
    assert served_here() is None
    for text in ("", "[]", "{}", '{"source": 1, "out": 2}', "not json"):
        monkeypatch.setenv(SERVED, text)
        with pytest.raises(ConfigError, match=SERVED):
            served_here()


def test_the_server_is_told_to_offer_only_what_is_served(tmp_path):
    made = {each.flow_name: each for each in make_deployments(Schedule(SOURCE, OUT), pool="gpus")}
    batch = made["extract-dataset"]._parameter_openapi_schema.properties
    assert (batch["source"]["enum"], batch["out"]["enum"]) == ([SOURCE], [OUT])
    assert made["rerun-failed"]._parameter_openapi_schema.properties["out"]["enum"] == [OUT]
    assert SERVED in made["rerun-episode"].job_variables["env"]
    assert SERVED not in made["extract-shard"].job_variables["env"]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "lab.example"])
def test_a_server_that_others_reach_wants_a_login(host, monkeypatch, tmp_path):
    for name in ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    result = CliRunner().invoke(main, ["serve", "/data", "--out", str(tmp_path / "out"), "--host", host])
    assert result.exit_code == 2
    assert "PREFECT_SERVER_API_AUTH_STRING=USER:PASSWORD" in result.output


def test_on_loopback_none_is_wanted():
    check_token("127.0.0.1")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The server that `extract` starts for the length of a run; `serve` starts the same with pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("PREFECT_API_URL", raising=False)
        prepare()
        server = StartedServer("127.0.0.1", 0, ui=False)
        try:
            server.wait()
            yield server.url
        finally:
            server.stop()


@pytest.mark.slow
def test_no_page_of_another_site_reads_or_does_anything(address):
    own = f"http://127.0.0.1:{httpx.URL(address).port}"
    listing = f"{address}/deployments/filter"
    token = httpx.get(f"{address}/csrf-token?client=me").json()["token"]
    csrf = {"Prefect-Csrf-Client": "me", "Prefect-Csrf-Token": token}
    assert httpx.post(listing, json={}, headers=csrf).status_code == 200
    assert httpx.post(listing, json={}, headers=csrf | {"origin": own}).status_code == 200
    # Without its token not even a program of this machine: a page that is let in by mistake stays outside.
    assert httpx.post(listing, json={}).status_code == 403
    for origin in (EVIL, "null", "http://127.0.0.1:1"):
        refused = [
            httpx.get(f"{address}/health", headers={"origin": origin}),
            httpx.get(f"{address}/csrf-token?client=me", headers={"origin": origin}),
            httpx.post(listing, json={}, headers=csrf | {"origin": origin}),
            httpx.post(listing, content="{}", headers=csrf | {"origin": origin, "content-type": "text/plain"}),
            httpx.post(listing, data={"a": "b"}, headers=csrf | {"origin": origin}),
            httpx.options(listing, headers={"origin": origin, "access-control-request-method": "POST"}),
        ]
        assert [answer.status_code for answer in refused] == [403] * 6
        assert not any("access-control-allow-origin" in answer.headers for answer in refused)
    for host in ("evil.example", "evil.example:4200", "127.0.0.1.evil.example"):
        assert httpx.get(f"{address}/health", headers={"host": host}).status_code == 403
    # A picture or script in a page carries no Origin.
    foreign = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert httpx.get(f"{address}/health", headers=foreign).status_code == 403
    assert not answers_foreign_pages(address)


@pytest.mark.slow
def test_no_page_of_another_site_opens_a_web_socket(address):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    events = address.replace("http", "ws") + "/events/in"
    with pytest.raises(InvalidStatus, match="403"):
        connect(events, origin=EVIL)
    connect(events).close()


@pytest.mark.slow
def test_the_door_is_there_whatever_the_user_has_set(tmp_path):
    """Settings of Prefect that would open it, in the environment; and a login, which its own runs know."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "*",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "false",
        "PREFECT_SERVER_API_AUTH_STRING": "me:quite-secret",
    }
    environment.pop("PREFECT_API_URL", None)
    code = "from flows.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", SOURCE, "--out", str(tmp_path / "out"), "--port", str(port)]
    url = f"http://127.0.0.1:{port}/api"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            said = [process.stdout.readline() for _ in range(4)]
            assert sum("serving" in line for line in said) == 3, said
            login = httpx.BasicAuth("me", "quite-secret")
            deadline = time.monotonic() + 60
            while httpx.get(f"{url}/deployments/name/extract-dataset/out", auth=login).status_code == 404:
                assert time.monotonic() < deadline
                time.sleep(0.5)
            assert httpx.get(f"{url}/deployments/name/extract-dataset/out").status_code == 401
            assert httpx.get(f"{url}/health", headers={"origin": EVIL}).status_code == 403
            assert httpx.post(f"{url}/deployments/filter", json={}, auth=login).status_code == 403
        finally:
            process.terminate()
            said.append(process.communicate(timeout=60)[0])
    assert "quite-secret" not in "".join(said)
