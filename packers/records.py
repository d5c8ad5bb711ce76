"""The root attributes of a packet as values, and what is wrong with them.

Everything that reads packets relies on these shapes, so they are checked where a packet is opened (`Packet`) and not
by each reader for itself; `validate` says the same as findings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from packers.schema import (
    EPISODE_ID,
    JSON_ATTRIBUTES,
    READABLE,
    ROOT_ATTRIBUTES,
    SHA256,
    SOURCE_RECORD,
    STAGE_RECORD,
    TEXT_ATTRIBUTES,
)

LARGEST_NUMBER = 2**63 - 1
"""Of a whole number in JSON: what tables and other programs hold."""

MOST_NAMES = 200
"""Scores, and quality cards, of one packet: each becomes a column of the manifest."""

FASTEST_FPS = 1e6
"""Frames per second; a million is beyond every camera, and far from where time stamps lose their digits."""

Fault = tuple[str, int | None]
"""A sentence, and the frame concerned or None."""


def parse_json(text: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """`text` parsed as JSON. What other JSON readers refuse or turn into infinity is refused.

    Raises:
        ValueError: not JSON, a number that is not finite (NaN, 1e999) or beyond 64 bits, nested too deeply.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a JSON number")

    def fraction(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else refuse(digits[:20])

    def whole(digits: str) -> int:
        # Longer ones are refused before `int`, whose time grows with the square of the length.
        return int(digits) if len(digits) <= 20 and abs(int(digits)) <= LARGEST_NUMBER else refuse(digits[:20])

    try:
        return json.loads(text, parse_constant=refuse, parse_float=fraction, parse_int=whole, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_root(name: str, value: Any, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The root attribute `name` as a value: JSON parsed (objects by `pairs`, if given), texts and numbers as they are.

    Raises:
        ValueError, TypeError: it is not JSON of the type that the schema states.
    """
    json_type = JSON_ATTRIBUTES.get(name)
    if name == "fps" and isinstance(value, str):
        raise TypeError("wanted a number, got text")
    if name in TEXT_ATTRIBUTES or (json_type is None and not isinstance(value, str)):
        return value
    if not isinstance(value, str):
        raise TypeError(f"wanted JSON text, got {type(value).__name__}")
    parsed = parse_json(value, pairs)
    if json_type is not None and not isinstance(parsed, json_type):
        raise TypeError(f"wanted a JSON {json_type.__name__}, got {type(parsed).__name__}")
    return parsed


def record_faults(attributes: Mapping[str, Any], n_frames: int | None = None) -> Iterator[Fault]:
    """What is wrong with the parsed root `attributes`; the frames' records are counted against `n_frames`."""
    for name in ROOT_ATTRIBUTES:
        if name not in attributes:
            yield f"root attribute '{name}' is missing", None
    yield from ((fault, None) for fault in _identity(attributes))
    if isinstance(attributes.get("source"), dict):
        yield from _source(attributes["source"], n_frames)
    if isinstance(attributes.get("stages"), dict):
        yield from ((fault, None) for fault in _stages(attributes["stages"]))
    yield from ((fault, None) for fault in _cards(attributes))


def _identity(attributes: Mapping[str, Any]) -> Iterator[str]:
    if attributes.get("schema", READABLE[-1]) not in READABLE:
        yield f"wanted schema {' or '.join(READABLE)}, got {attributes['schema']!r}"
    episode_id = attributes.get("episode_id")
    if episode_id is not None and not (isinstance(episode_id, str) and EPISODE_ID.fullmatch(episode_id)):
        yield f"episode_id: wanted [A-Za-z0-9_.-]+, got {episode_id!r}"
    if not isinstance(attributes.get("language_instruction", ""), str):
        yield "language_instruction: wanted text"
    fps = attributes.get("fps", 1.0)
    if not _is_number(fps) or not 0 < fps <= FASTEST_FPS:
        yield f"fps: wanted a positive number up to {FASTEST_FPS:g}, got {fps!r}"
    for name in ("tags", "modalities"):
        values = attributes.get(name, [])
        if isinstance(values, list) and not all(isinstance(value, str) for value in values):
            yield f"{name}: wanted a list of texts"


def _source(source: Mapping[str, Any], n_frames: int | None) -> Iterator[Fault]:
    missing = [name for name in SOURCE_RECORD if name not in source]
    if missing:
        yield f"source: {missing} are missing", None
    if "episode_index" not in source and "key" not in source:
        yield "source: neither episode_index nor key says which episode it is", None
    index = source.get("episode_index")
    if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
        yield f"source: episode_index: wanted a whole number, got {index!r}", None
    for name in ("dataset", "kind", "path", "camera"):
        if not isinstance(source.get(name), str | None):
            yield f"source: {name}: wanted text, got {type(source[name]).__name__}", None
    path = source.get("path")
    if isinstance(path, str) and (path.startswith("/") or ".." in path.split("/")):
        yield f"source: path must be relative to the source's root, got {path!r}", None
    for name in ("frame_ids", "frame_sha256"):
        values = source.get(name, [])
        if not isinstance(values, list):
            yield f"source: {name} has no list entries for {n_frames} frames", None
        elif name in source and n_frames is not None and len(values) != n_frames:
            yield f"source: {name} has {len(values)} entries for {n_frames} frames", None
    hashes = source.get("frame_sha256")
    for frame, value in enumerate(hashes if isinstance(hashes, list) else ()):
        if not _is_sha256(value):
            yield f"source: frame_sha256 has no sha256 but {value!r}", frame
            break


def _stages(stages: Mapping[str, Any]) -> Iterator[str]:
    if "source" not in stages:
        yield "stages: the stage 'source' is missing"
    for name, stage in stages.items():
        if not isinstance(stage, dict):
            yield f"stages: {name}: wanted a record, got {type(stage).__name__}"
            continue
        missing = [part for part in STAGE_RECORD if part not in stage]
        if missing:
            yield f"stages: {name}: {missing} are missing"
        if "key" in stage and not (isinstance(stage["key"], str) and stage["key"]):
            yield f"stages: {name}: wanted a key, got {stage['key']!r}"
        for part in ("backend", "device", "precision"):
            if not isinstance(stage.get(part), str | None):
                yield f"stages: {name}: {part}: wanted text, got {type(stage[part]).__name__}"
        for part in ("weights", "report", "outputs"):
            if not isinstance(stage.get(part, {}), dict):
                yield f"stages: {name}: {part}: wanted a record, got {type(stage[part]).__name__}"
        weights = stage.get("weights")
        for label, digest in weights.items() if isinstance(weights, dict) else ():
            if not _is_sha256(digest):
                yield f"stages: {name}: weights {label} have no sha256 but {digest!r}"


def _cards(attributes: Mapping[str, Any]) -> Iterator[str]:
    """Scores are numbers or null; each modality's quality card is a record with a status."""
    scores, quality = attributes.get("scores"), attributes.get("quality")
    for what, named in (("scores", scores), ("quality", quality)):
        names = list(named) if isinstance(named, dict) else []
        bad = [name for name in names if not EPISODE_ID.fullmatch(name)]
        if bad or len(names) > MOST_NAMES:
            yield f"{what}: wanted up to {MOST_NAMES} names of [A-Za-z0-9_.-]+, got {bad[:1] or len(names)}"
    for name, value in scores.items() if isinstance(scores, dict) else ():
        if value is not None and not _is_number(value):
            yield f"scores: {name}: wanted a number or null, got {type(value).__name__}"
    for modality, card in quality.items() if isinstance(quality, dict) else ():
        if not isinstance(card, dict):
            yield f"quality: {modality}: wanted a record, got {type(card).__name__}"
            continue
        if not isinstance(card.get("status"), str):
            yield f"quality: {modality}: status: wanted text, got {card.get('status')!r}"
        if not isinstance(card.get("numbers", {}), dict):
            yield f"quality: {modality}: numbers: wanted a record, got {type(card['numbers']).__name__}"
        for part in ("reasons", "tags"):
            texts = card.get(part, [])
            if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
                yield f"quality: {modality}: {part}: wanted a list of texts"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and SHA256.fullmatch(value) is not None
