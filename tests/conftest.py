from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bqcore import _kernels


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real vectors; they stay out of the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BQCORE_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"real vectors not found at {folder} (set BQCORE_DATA)")
    return folder


@pytest.fixture(params=_kernels.ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on every instruction set; those the machine lacks are skipped with a reason."""
    if request.param not in _kernels.supported_isas():
        pytest.skip(f"this machine has no {request.param}")
    before = _kernels.active_isa()
    _kernels.select_isa(request.param)
    yield request.param
    _kernels.select_isa(before)
