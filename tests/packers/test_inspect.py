import json

import numpy as np
import pytest

from extractors.errors import PacketError
from packers.inspect import describe_packet, format_packet
from tests.packers import examples


def test_a_description_is_json_and_names_every_dataset(tmp_path):
    path = examples.write_example(tmp_path)
    description = json.loads(json.dumps(describe_packet(path), allow_nan=False))
    assert description["intact"]
    pixels = description["datasets"]["pixels"]
    assert (pixels["dtype"], pixels["shape"], pixels["chunks"]) == ("uint8", [6, 24, 32, 3], [1, 24, 32, 3])
    assert set(examples.arrays()) < set(description["datasets"])
    assert description["attributes"]["scores"] == {"depth": None, "score": 0.7}


def test_a_hash_per_frame_does_not_flood_the_screen(tmp_path):
    description = describe_packet(examples.write_example(tmp_path, frames=300, height=4, width=4))
    hashes = description["attributes"]["source"]["frame_sha256"]
    assert hashes[1] == "... 300 in all ..."
    assert len(format_packet(description).splitlines()) < 120


def test_the_text_fits_eighty_columns(tmp_path):
    text = format_packet(describe_packet(examples.write_example(tmp_path, frames=200, height=4, width=4)), width=80)
    assert max(map(len, text.splitlines())) <= 80
    for wanted in ("put the größe cup", "tracks/foreground/visibility_score", "no-grasp", "status: pass", "images0"):
        assert wanted in text


def test_a_damaged_packet_is_refused(tmp_path):
    path = examples.write_example(tmp_path)
    examples.tamper(path, examples.set_values("gripper", 0, 0.5), sign=False)
    with pytest.raises(PacketError, match="do not have the sha256"):
        describe_packet(path)


def test_a_strangers_texts_do_not_reach_the_terminal_raw(tmp_path):
    path = examples.write_example(tmp_path)

    def hostile(file):
        file.attrs["language_instruction"] = np.bytes_("put \x1b[2J\x1b]0;owned\x07 \u202e cup".encode())
        file["gripper"].attrs["units"] = np.bytes_(b"\x1b[31m")
        file.attrs["tags"] = np.bytes_(b'["\\u001b[5m", "\\ud800"]')

    examples.tamper(path, hostile)
    text = format_packet(describe_packet(path))
    assert "\\x1b[2J\\x1b]0;owned\\x07 \\u202e cup" in text
    assert not {"\x1b", "\x07", "\u202e", "\ud800"} & set(text)
    assert text.encode("utf-8")


def test_a_file_that_does_not_open_is_an_error(tmp_path):
    path = examples.write_example(tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(PacketError, match="damaged"):
        describe_packet(path)
