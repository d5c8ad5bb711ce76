"""Packets made by hand through everything that opens packets: nothing hangs, leaks, or fails but by PacketError."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from extractors.errors import PacketError
from extractors.types import Episode
from flows.output.directory import OutputDirectory
from flows.output.rebuild import rebuild_manifest
from flows.output.store import Store
from flows.run.verify import Verifier
from flows.sources.base import EpisodeInfo
from flows.viewing.library import Library
from flows.viewing.server import export_site
from packers.export.lerobot.dataset import plan_lerobot, write_lerobot
from packers.export.lewm import write_lewm
from packers.inspect import describe_packet, format_packet
from packers.reader import Packet
from packers.validate import validate_packet
from packers.viewer.render import render_episode
from tests.packers import examples, hostile


class OneEpisode:
    """The source of `examples`, for `verify`."""

    kind = dataset = "example"
    root = Path()
    camera_aliases = ()

    def episodes(self):
        yield EpisodeInfo("episode_0", 0, examples.FRAMES, "", ("images0",), 5.0, ())

    def reread(self, episode):
        return None

    def open(self, info, camera=None):
        values = {name: found for name, (_, found, _) in examples.arrays().items()}
        rows = {name: np.asarray(values[name], np.float32) for name in ("action", "state", "gripper")}
        return Episode(
            "episode_0", 0, "images0", "", 5.0, values["pixels"], values["timestamp"], **rows, provenance={}, tags=()
        )


def read_all(path: Path, folder: Path) -> Any:
    with Packet(path) as packet:
        assert packet.size
        return packet.attributes, [packet[name] for name in packet.modalities]


def view(path: Path, folder: Path) -> Any:
    """The pages as files. A packet that cannot be shown has a page that says so, which counts as refused here."""
    export_site(Library(path.parents[2]), folder / "site", workers=1)
    (episode,) = (folder / "site" / "data" / "a").iterdir()
    if b'"broken"' in (episode / "episode.js").read_bytes():
        raise PacketError("shown as broken")


def lerobot(path: Path, folder: Path) -> Any:
    write_lerobot(plan_lerobot([path], pixels="png"), folder / "set")


def rebuild(path: Path, folder: Path) -> Any:
    rebuilt = rebuild_manifest(OutputDirectory.open(path.parents[2]))
    if not rebuilt.made:
        raise PacketError(str(rebuilt.damaged))


SURFACES: dict[str, Callable[[Path, Path], Any]] = {
    "Packet": read_all,
    "inspect": lambda path, folder: format_packet(describe_packet(path)),
    "view": view,
    "render": lambda path, folder: render_episode(path, folder / "sheet.png"),
    "export lewm": lambda path, folder: write_lewm([path], folder / "train.h5"),
    "export lerobot": lerobot,
    "verify": lambda path, folder: Verifier(OneEpisode()).verify(path),
    "rebuild": rebuild,
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return examples.write_example(tmp_path_factory.mktemp("good")).read_bytes()


def placed(folder: Path, content: bytes) -> Path:
    path = Store(folder / "out").packet_path("episode_0")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def through_all(path: Path, folder: Path) -> dict[str, PacketError | None]:
    """What each surface made of the packet; any other exception is a fault of ours and comes through."""
    made: dict[str, PacketError | None] = {}
    for surface, read in SURFACES.items():
        target = folder / surface
        target.mkdir()
        try:
            made[surface] = None
            read(path, target)
        except PacketError as error:
            made[surface] = error
        for file in target.rglob("*"):
            assert not file.is_file() or hostile.SECRET not in file.read_bytes(), f"{surface} shows the secret"
    return made


def test_a_good_packet_goes_through_everything(tmp_path, good):
    path = placed(tmp_path, good)
    assert validate_packet(path) == []
    assert through_all(path, tmp_path) == dict.fromkeys(SURFACES)


SHARES = [share if share < 1 else pytest.param(share, marks=pytest.mark.slow) for share in range(8)]
"""The quick suite looks at every eighth case; `make test-all` at all of them."""


@pytest.mark.parametrize("share", SHARES)
def test_packets_made_by_hand_do_no_harm(tmp_path, good, share):
    (tmp_path / "elsewhere").mkdir()
    changes = hostile.cases(tmp_path / "elsewhere")
    refused = []
    for number, (name, change) in enumerate(changes.items()):
        if number % 8 != share:
            continue
        folder = tmp_path / str(number)
        path = placed(folder, good)
        examples.tamper(path, change)
        findings = validate_packet(path)
        # What fails comes with the case's name, as one test takes many.
        try:
            made = through_all(path, folder)
        except Exception as error:
            error.add_note(f"case: {name}; validate: {[finding.reason for finding in findings]}")
            raise
        assert not (h5py.is_hdf5(path) and findings == [] and any(made.values())), f"{name} passes validate: {made}"
        refused.append(bool(findings))
    # A few are unusual and good (escape sequences in an instruction are text); most break the schema.
    assert sum(refused) >= 0.7 * len(refused)


@pytest.mark.parametrize("share", SHARES[:4])
def test_no_bit_flip_is_accepted(tmp_path, good, share):
    path = tmp_path / "episode_0.h5"
    rng = np.random.default_rng(share)
    opened = []
    for place in rng.choice(len(good) * 8, 500, replace=False):
        content = bytearray(good)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            Packet(path).__enter__()
            opened.append(int(place))
        except PacketError:
            continue
    assert opened == []
