"""Builders of tiny clips, and the way to the development data beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def shared_data(*parts: str) -> Path:
    """A path in the development data (`../shared/data`), or a skip that says what is missing."""
    path = REPOSITORY.parent.joinpath("shared", "data", *parts)
    if not path.exists():
        pytest.skip(f"development data not beside the checkout: ../shared/data/{'/'.join(parts)}")
    return path
