from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real vectors; they stay out of the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BQCORE_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"real vectors not found at {folder} (set BQCORE_DATA)")
    return folder
