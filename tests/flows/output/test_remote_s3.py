"""Source and output on an S3 server on loopback, through the command line."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time

import fsspec
import pytest

from flows.sources.sample import SAMPLE
from tests.flows.remote_places import local_packets
from tests.support import WITHOUT_MODELS, set_options

pytestmark = pytest.mark.slow

CUEPACK = [sys.executable, "-c", "from flows.cli import main; main()"]
QUICK = ["-q", "--profile", "cpu", *set_options(*WITHOUT_MODELS)]
BUCKET = "cuepack-test"


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """The environment of processes that use the server; skipped without its packages."""
    for package in ("s3fs", "moto", "flask"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install s3fs 'moto[server]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "CUEPACK_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _await(port, server)
            yield os.environ | settings
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def fs(s3):
    """The server's files, with the sample as s3://cuepack-test/data/bridge_raw."""
    found = fsspec.filesystem(
        "s3",
        key="testing",
        secret="testing",
        client_kwargs={"endpoint_url": s3["AWS_ENDPOINT_URL"]},
        use_listings_cache=False,
    )
    found.mkdir(BUCKET)
    found.put(str(SAMPLE / "bridge_raw"), f"{BUCKET}/data/bridge_raw", recursive=True)
    return found


def _await(port, server):
    for _ in range(300):
        assert server.poll() is None, "the S3 server ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the S3 server did not start")


def cuepack(environment, *arguments):
    done = subprocess.run([*CUEPACK, *map(str, arguments)], env=environment, capture_output=True, text=True)
    print("cuepack", *arguments, f"-> {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def packets(fs, out):
    import hashlib

    found = [path for path in fs.find(f"{BUCKET}/{out}/packets") if path.endswith(".h5")]
    return {path.rpartition("/")[2]: hashlib.sha256(fs.cat_file(path)).hexdigest() for path in found}


@pytest.fixture(scope="module")
def expected(s3, tmp_path_factory):
    out = tmp_path_factory.mktemp("local") / "out"
    assert cuepack(s3, "extract", SAMPLE / "bridge_raw", "--out", out, "--no-prefect", *QUICK).returncode == 0
    return local_packets(out)


SOURCE = f"s3://{BUCKET}/data/bridge_raw"


def test_a_batch_from_s3_to_s3(s3, fs, expected):
    out = f"s3://{BUCKET}/plain"
    first = cuepack(s3, "extract", SOURCE, "--out", out, "--no-prefect", *QUICK)
    assert "4 packed (0 of them before)" in first.stdout
    assert packets(fs, "plain") == expected
    again = cuepack(s3, "extract", SOURCE, "--out", out, "--no-prefect", *QUICK)
    assert "4 packed (4 of them before)" in again.stdout
    assert "4 packets, 0 findings" in cuepack(s3, "validate", out).stdout
    assert "4 packets, 0 findings" in cuepack(s3, "verify", out).stdout
    name = next(iter(expected)).removesuffix(".h5")
    rerun = cuepack(s3, "rerun", out, name, "--from", "geometry", "--no-prefect", "-q")
    assert rerun.returncode == 0
    assert packets(fs, "plain") == expected


def test_a_batch_through_prefect(s3, fs, expected):
    done = cuepack(s3, "extract", SOURCE, "--out", f"s3://{BUCKET}/flow", *QUICK)
    assert done.returncode == 0
    assert packets(fs, "flow") == expected
    run = json.loads(fs.cat_file(f"{BUCKET}/flow/run.json"))
    assert run["source"]["path"] == SOURCE


def test_kills_at_any_point_end_with_the_bytes_of_an_undisturbed_batch(s3, fs, expected):
    command = [*CUEPACK, "extract", SOURCE, "--out", f"s3://{BUCKET}/killed", "--no-prefect", *QUICK]
    command += ["--set", "run.shard_size=1", "--workers", "1"]
    kills, wait = 0, 1.5
    for _ in range(20):
        with subprocess.Popen(command, env=s3, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as batch:
            try:
                code = batch.wait(wait)
            except subprocess.TimeoutExpired:
                batch.kill()
                code = batch.wait()
        assert packets(fs, "killed").items() <= expected.items()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        wait += 0.35
    assert code == 0
    assert kills > 0
    print(f"killed {kills} times")
    assert packets(fs, "killed") == expected


def test_what_cannot_be_used_is_said(s3, fs):
    missing = cuepack(s3, "extract", f"s3://{BUCKET}/nothing", "--out", f"s3://{BUCKET}/o", "--no-prefect")
    assert (missing.returncode, "does not exist" in missing.stderr) == (2, True)
    nowhere = s3 | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    unreachable = cuepack(nowhere, "extract", SOURCE, "--out", f"s3://{BUCKET}/o", "--no-prefect")
    assert (unreachable.returncode, "cannot be reached" in unreachable.stderr) == (2, True)
    stranger = {name: value for name, value in s3.items() if not name.startswith("AWS_A") and "SECRET" not in name}
    # No metadata service of a cloud machine is asked.
    stranger |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}
    refused = cuepack(stranger, "extract", SOURCE, "--out", f"s3://{BUCKET}/o", "--no-prefect")
    assert (refused.returncode, "credentials" in refused.stderr) == (2, True)
