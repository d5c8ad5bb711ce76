"""Mutated packets through the reader and the validator: bits flipped, and hostile ones whose checksums are put right.

HDF5 protects its structures by checksums, so that a plain flip never gets far. An attacker computes them again; so does
this: a mutation inside a structure is followed by the right checksum of the structure, and by the sha256 of the file.
What is let in is read in a process of its own, which must neither end, nor loop, nor fail but by PacketError.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from extractors.errors import PacketError
from packers import admission, validate
from packers.examination import TASKS
from packers.reader import Packet
from packers.validate import validate_packet
from tests.packers import examples

CPU_SECONDS, MEMORY_BYTES = 10, 6 * 2**30
"""Of one look at a packet, and of reading one that was let in."""

_SIGNATURES = (
    b"OHDR",
    b"OCHK",
    b"BTHD",
    b"BTIN",
    b"BTLF",
    b"FRHP",
    b"FHIB",
    b"FAHD",
    b"FADB",
    b"EAHD",
    b"EAIB",
    b"EADB",
)
_MASK = 0xFFFFFFFF


def signed_packet(folder: Path, rng: np.random.Generator) -> str:
    """Structures mutated, their checksums and the sha256 right."""
    return _end(folder, _mutated(_good(), _structures(), rng), signed=True)


def flipped_packet(folder: Path, rng: np.random.Generator) -> str:
    """One bit anywhere, nothing put right: nobody may open it."""
    return _end(folder, _flipped(_good(), rng), signed=False)


CASES: dict[str, Callable[[Path, np.random.Generator], str]] = {
    "signed_packet": signed_packet,
    "flipped_packet": flipped_packet,
}


def _end(folder: Path, content: bytes, *, signed: bool) -> str:
    use_forks()
    path = folder / "episode_0.h5"
    path.write_bytes(content)
    findings = validate_packet(path)
    try:
        Packet(path).__enter__().close()
    except PacketError:
        assert findings, "validate passes what Packet refuses"
        return "refused"
    assert signed, "a packet of a wrong sha256 was opened"
    # 0: every array was read; 1: PacketError.
    assert _apart(lambda: _read(path)) in (0, 1), "reading a packet that was let in failed otherwise"
    return "let in, findings" if findings else "let in, harmless"


def _read(path: Path) -> int:
    try:
        with Packet(path) as packet:
            for name in packet.modalities:
                packet.read(name)
    except PacketError:
        return 1
    return 0


def _apart(work: Callable[[], int]) -> int:
    """What `work` returns in a fork with limits; -n where signal n ended it, 99 after an exception."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def look_in_a_fork(task: str, path: Path) -> list[list[Any]]:
    """`packers.examiner.examine` without starting a program, which the fuzzer takes for a fault."""
    answer = path.with_suffix(".json")

    def work() -> int:
        rows = [[found.dataset, found.frame, found.reason] for found in TASKS[task](path)]
        answer.write_text(json.dumps(rows), encoding="utf-8")
        return 0

    code = _apart(work)
    if code == 0:
        return list(json.loads(answer.read_text(encoding="utf-8")))
    assert code != 99, "an exception in the examining process"
    raise PacketError(f"{path}: refused: {signal.Signals(-code).name if code < 0 else code}")


def use_forks() -> None:
    """Has packets looked at in forks from here on."""
    admission.examine = look_in_a_fork
    validate.examine = look_in_a_fork


@cache
def _good() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return examples.write_example(Path(folder), frames=3, height=8, width=10).read_bytes()


def _flipped(good: bytes, rng: np.random.Generator) -> bytes:
    content = bytearray(good)
    place = int(rng.integers(8 * len(content)))
    content[place // 8] ^= 1 << place % 8
    return bytes(content)


def _mutated(good: bytes, structures: list[tuple[int, int]], rng: np.random.Generator) -> bytes:
    body = bytearray(good[512:])
    for _ in range(int(rng.integers(1, 4))):
        start, end = structures[rng.integers(len(structures))]
        place = int(rng.integers(start + 4, end))
        kind = rng.integers(4)
        if kind == 0:
            body[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            body[place] = (0, 1, 0x7F, 0x80, 0xFF)[rng.integers(5)]
        elif kind == 2 and place + 8 <= end:
            # One structure in the place of another, or inside itself.
            body[place : place + 8] = struct.pack("<Q", structures[rng.integers(len(structures))][0])
        else:
            body[place] = int(rng.integers(256))
    for start, end in structures:
        body[end : end + 4] = struct.pack("<I", lookup3(bytes(body[start:end])))
    return examples.signed(bytes(body))


@cache
def _structures() -> list[tuple[int, int]]:
    """(start, end) in the HDF5 part of each structure that a checksum follows."""
    body, found = _good()[512:], []
    for signature in _SIGNATURES:
        start = body.find(signature)
        while start >= 0:
            for end in range(start + 8, min(start + 1000, len(body) - 4)):
                if struct.unpack_from("<I", body, end)[0] == lookup3(body[start:end]):
                    found.append((start, end))
                    break
            start = body.find(signature, start + 1)
    return sorted(found)


def lookup3(data: bytes) -> int:
    """The checksum of HDF5's structures: Bob Jenkins' hash lookup3 (public domain, 2006), initial value 0."""
    blocks = -(-len(data) // 12)
    words = struct.unpack(f"<{3 * blocks}I", data.ljust(12 * blocks, b"\0"))
    mixed = [(0xDEADBEEF + len(data)) & _MASK] * 3
    for place in range(0, len(words) - 3, 3):
        mixed = [(number + word) & _MASK for number, word in zip(mixed, words[place : place + 3], strict=True)]
        for step, turn in enumerate((4, 6, 8, 16, 19, 4)):
            here, before, after = step % 3, (step + 2) % 3, (step + 1) % 3
            mixed[here] = ((mixed[here] - mixed[before]) & _MASK) ^ _turned(mixed[before], turn)
            mixed[before] = (mixed[before] + mixed[after]) & _MASK
    if data:
        mixed = [(number + word) & _MASK for number, word in zip(mixed, words[-3:], strict=True)]
        for step, turn in enumerate((14, 11, 25, 16, 4, 14, 24)):
            here, before = (step + 2) % 3, (step + 1) % 3
            mixed[here] = ((mixed[here] ^ mixed[before]) - _turned(mixed[before], turn)) & _MASK
    return mixed[2]


def _turned(value: int, by: int) -> int:
    return ((value << by) | (value >> (32 - by))) & _MASK
