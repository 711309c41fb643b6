"""The one place that knows where the shared research data is: $VITKIT_SHARED, by default ../shared beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared_data(*parts: str) -> Path:
    """A file or folder of the shared data; the test skips where it is absent."""
    path = Path(os.environ.get("VITKIT_SHARED", ROOT.parent / "shared")).joinpath("data", *parts)
    if not path.exists():
        pytest.skip(f"needs the shared research data: {'/'.join(parts)} (set VITKIT_SHARED)")
    return path


def shared_page(name: str) -> str:
    """The text of a page of the shared research notes; the test skips where it is absent."""
    path = Path(os.environ.get("VITKIT_SHARED", ROOT.parent / "shared")) / "docs" / name
    if not path.exists():
        pytest.skip(f"needs the shared research notes: {name} (set VITKIT_SHARED)")
    return path.read_text(encoding="utf-8")
