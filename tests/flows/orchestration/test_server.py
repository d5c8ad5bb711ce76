"""What becomes of a server: a damaged database, a parent that is killed, an environment in which it cannot start."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
    temporary_settings,
)

from extractors.errors import ConfigError
from flows.orchestration.database import check_database
from flows.orchestration.server import start_for_runs
from flows.sources.sample import write_sample

CUEPACK = [sys.executable, "-c", "from flows.cli import main; main()"]
QUICK = ["--set", "masks.backend=recorded", "--set", "tracks.backend=off", "--set", "run.profile=cpu"]


@pytest.fixture
def home(tmp_path):
    """Prefect's home, as its settings see it."""
    folder = tmp_path / "home"
    folder.mkdir()
    with temporary_settings({PREFECT_HOME: folder}, restore_defaults={PREFECT_API_URL}):
        yield folder


def write_database(path, rows=2000):
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("create table run (id integer primary key, name text unique)")
        database.executemany("insert into run (name) values (?)", ((f"run {n}" * 20,) for n in range(rows)))


def test_a_good_database_or_none_is_left_alone(home):
    check_database()
    write_database(home / "prefect.db")
    before = (home / "prefect.db").read_bytes()
    check_database()
    assert (home / "prefect.db").read_bytes() == before
    # Of a first start that was killed: Prefect makes its tables in it.
    (home / "prefect.db").write_bytes(b"")
    check_database()


@pytest.mark.parametrize("damage", ["text", "header", "page", "cut"])
def test_a_damaged_database_is_named_with_the_way_out(home, damage):
    path = home / "prefect.db"
    write_database(path)
    content = bytearray(path.read_bytes())
    rng = random.Random(3)
    if damage == "text":
        content = bytearray(b"not a database at all\n" * 400)
    elif damage == "header":
        content[:100] = rng.randbytes(100)
    elif damage == "page":
        content[4096 * 5 : 4096 * 9] = rng.randbytes(4096 * 4)
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)
    started = time.monotonic()
    with pytest.raises(ConfigError) as refused:
        check_database()
    assert time.monotonic() - started < 60  # 185 s and a traceback before
    assert str(path) in str(refused.value)
    assert f"mv {path} {path}.damaged" in str(refused.value)
    assert "--no-prefect" in str(refused.value)


def test_a_database_that_a_server_holds_is_not_called_damaged(home):
    write_database(home / "prefect.db")
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as database:
        database.execute("begin exclusive")
        check_database()


def test_a_database_elsewhere_in_no_folder_is_named(home, tmp_path):
    elsewhere = {PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{tmp_path}/none/prefect.db"}
    with (
        temporary_settings(elsewhere),
        pytest.raises(ConfigError, match=r"PREFECT_SERVER_DATABASE_CONNECTION_URL names .*none/prefect.db"),
    ):
        check_database()


def test_ephemeral_mode_off_is_said_with_the_way_out(home):
    off = temporary_settings({PREFECT_SERVER_EPHEMERAL_ENABLED: False})
    with off, pytest.raises(ConfigError, match=r"PREFECT_SERVER_EPHEMERAL_ENABLED is off.*--no-prefect"):
        start_for_runs()


def servers_of(home):
    """Processes of servers whose home is `home`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            own = f"PREFECT_HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if own and b"server_process" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def environment(home, **more):
    kept = {name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", *more)}
    return kept | {"PREFECT_HOME": str(home)} | {name: value for name, value in more.items() if value is not None}


@pytest.mark.slow
def test_a_killed_run_takes_its_server_with_it(tmp_path):
    write_sample(tmp_path / "sample")
    home, out = tmp_path / "home", tmp_path / "out"
    command = [*CUEPACK, "extract", str(tmp_path / "sample" / "bridge_raw"), "--out", str(out), *QUICK, "-q"]
    with subprocess.Popen(command, env=environment(home), stdout=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 240
        while not list(out.glob("packets/*/*.h5")):
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.05)
        assert len(servers_of(home)) == 1
        running.kill()
    assert running.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while servers_of(home):
        assert time.monotonic() < deadline, "the server outlived its run"
        time.sleep(0.2)
    done = subprocess.run([*command, "--no-prefect"], env=environment(home), check=True, capture_output=True, text=True)
    assert "4 packed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://me:secret@127.0.0.1:9/x"}, "did not start"),
        ({"PREFECT_SERVER_EPHEMERAL_ENABLED": "false"}, "PREFECT_SERVER_EPHEMERAL_ENABLED"),
        ({"PREFECT_SERVER_DATABASE_CONNECTION_URL": "nonsense"}, "PREFECT_SERVER_DATABASE_CONNECTION_URL"),
    ],
)
def test_what_cannot_start_is_one_sentence(tmp_path, more, said):
    write_sample(tmp_path / "sample")
    command = [*CUEPACK, "extract", str(tmp_path / "sample" / "bridge_raw"), "--out", str(tmp_path / "out"), *QUICK]
    done = subprocess.run(
        command, env=environment(tmp_path / "home", **more), capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "--no-prefect" in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.slow
def test_without_home_prefect_s_folder_is_found(tmp_path):
    write_sample(tmp_path / "sample")
    command = [*CUEPACK, "extract", str(tmp_path / "sample" / "bridge_raw"), "--out", str(tmp_path / "out"), *QUICK]
    bare = {name: value for name, value in environment(tmp_path / "home", HOME=None).items() if name != "HOME"}
    done = subprocess.run([*command, "-q"], env=bare, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
