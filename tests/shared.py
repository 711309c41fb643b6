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
