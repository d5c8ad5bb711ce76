"""The Docker files, as far as they can be checked without Docker: read, linted, and what their commands name exists."""

import re
import subprocess
import sys

import pytest
import yaml
from prefect.settings import Settings
from prefect.settings.legacy import _get_settings_fields

from flows.orchestration import server_process
from tests.support import REPOSITORY

DOCKER = REPOSITORY / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.?pu"))
PINNED = re.compile(r"[\w./-]+:\d+\.\d+[\w.-]*$")


def instructions(path):
    """(name, arguments) of every instruction, lines joined, comments dropped."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text)
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_are_pinned_small_and_run_as_no_root(path):
    found = instructions(path)
    names = [name for name, _ in found]
    bases = [arguments.split()[0] for name, arguments in found if name == "FROM"]
    assert len(bases) == 2  # what builds does not ship
    assert all(PINNED.match(base) for base in bases)
    last = [arguments for name, arguments in found[names.index("USER") :] if name == "USER"][-1]
    assert last.isdigit()
    assert int(last) > 0
    assert "HEALTHCHECK" in names
    assert "ADD" not in names
    assert not [
        arguments for name, arguments in found if "apt-get" in arguments and "rm -rf /var/lib/apt" not in arguments
    ]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_code_changes_leave_the_layers_of_the_dependencies_alone(path):
    found = instructions(path)
    whole = found.index(("COPY", ". ."))
    installs = [index for index, (name, arguments) in enumerate(found) if name == "RUN" and "pip install" in arguments]
    assert sum(index < whole for index in installs) == 2
    assert all("--constraint constraints.txt" in found[index][1] for index in installs)
    assert all("--mount=type=cache" in found[index][1] for index in installs)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_exists_and_is_not_ignored(path):
    allowed = {line[1:] for line in path.with_name(f"{path.name}.dockerignore").read_text().split() if line[0] == "!"}
    for name, arguments in instructions(path):
        if name == "COPY" and not arguments.startswith(("--from", ". .")):
            for file in arguments.split()[:-1]:
                assert (REPOSITORY / file).is_file()
                assert file in allowed
    packages = yaml.safe_load(re.search(r"packages = (\[.*?\])", (REPOSITORY / "pyproject.toml").read_text()).group(1))
    assert set(packages) <= allowed


def test_the_layer_of_requirements_holds_what_the_project_names():
    command = [sys.executable, DOCKER / "requirements.py", REPOSITORY / "pyproject.toml", "extract", "sam"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert any(line.startswith("prefect>=") for line in lines)
    assert any(line.startswith("transformers>=") for line in lines)
    assert not any(line.startswith("cuepack") for line in lines)


def test_services_are_pinned_watched_and_reached_from_this_machine_only(compose):
    for name, service in compose["services"].items():
        assert PINNED.match(service["image"]) or service["image"].startswith("cuepack:")
        if service["restart"] != "no":
            assert service["healthcheck"]["test"][0] == "CMD", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for variable, value in service.get("environment", {}).items():
            if "PASSWORD" in variable or "AUTH" in variable:
                assert value.startswith("${"), f"{name} has a password in the file"
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{.*?\}", "/", volume).split(":")[0]
            assert source.startswith("/") or source in compose["volumes"]


def test_the_server_wants_a_login_and_its_clients_have_it(compose):
    services = compose["services"]
    assert services["server"]["entrypoint"][1:] == ["-m", server_process.__name__]
    login = services["server"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"]
    for name in ("deployments", "worker", "worker-gpu0"):
        assert services[name]["environment"]["PREFECT_API_AUTH_STRING"] == login


def test_services_wait_for_one_another_to_be_healthy(compose):
    services = compose["services"]
    assert services["server"]["depends_on"]["database"]["condition"] == "service_healthy"
    assert services["deployments"]["depends_on"]["server"]["condition"] == "service_healthy"
    for name in ("worker", "worker-gpu0"):
        assert services[name]["depends_on"]["deployments"]["condition"] == "service_completed_successfully"
        assert services[name]["entrypoint"][-2:] == ["--limit", "1"]


def test_prefect_knows_every_setting_that_is_set(compose):
    known = set(_get_settings_fields(Settings))
    for service in compose["services"].values():
        named = {name for name in service.get("environment", {}) if name.startswith("PREFECT_")}
        assert named <= known


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["worker", "start"], ["--pool", "--type", "--limit", "--with-healthcheck"]),
        (["work-pool", "create"], ["--type", "--overwrite"]),
    ],
)
def test_prefect_s_commands_have_the_options_used(command, options):
    said = subprocess.run(
        [sys.executable, "-m", "prefect", *command, "--help"], capture_output=True, text=True, check=True
    )
    assert all(option in said.stdout for option in options)


def test_health_checks_fail_where_nothing_answers(compose):
    for name in ("server", "worker"):
        check = compose["services"][name]["healthcheck"]["test"]
        assert check[1] == "python"
        code = check[3].replace("4200", "9").replace("8080", "9")
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 1
