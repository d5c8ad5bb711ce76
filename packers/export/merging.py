"""Packets of several output directories in one export: names that collide are told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from extractors.errors import ConfigError
from packers.reader import Packet


def told_apart(packets: Sequence[Path]) -> dict[Path, str]:
    """Packet -> a name that no other has, for those whose own name others have too: their data set is put before it.

    Raises:
        ConfigError: two packets of one data set have one name: an episode that is in two directories.
    """
    often = Counter(path.stem for path in packets)
    names: dict[Path, str] = {}
    owners = {path.stem: path for path in packets if often[path.stem] == 1}
    for path in packets:
        if often[path.stem] == 1:
            continue
        with Packet(path) as packet:
            name = f"{packet.attributes['source']['dataset']}-{path.stem}".replace("/", "-")
        if name in owners:
            raise ConfigError(
                f"{path} and {owners[name]} are both {name}: the same episode in two directories; leave one out with "
                "--selection"
            )
        names[path] = name
        owners[name] = path
    return names
