"""Immediate stops at random moments: nothing committed is lost, and both indexes keep answering."""

from __future__ import annotations

import os

import numpy as np
import pytest
from faults import EVENTS, Faults
from support import Connection

from bqcore_postgres import EmbeddedServer

pytestmark = pytest.mark.postgres

ROUNDS = int(os.environ.get("BQCORE_FAULT_ROUNDS", "150"))
SEED = int(os.environ.get("BQCORE_FAULT_SEED", "0"))


@pytest.fixture
def faults(embedded: EmbeddedServer, database: str, conn: Connection) -> Faults:
    rounds = Faults(embedded, database, np.random.default_rng(SEED))
    rounds.prepare()
    return rounds


def test_an_immediate_stop_during_each_event(faults: Faults) -> None:
    for event in EVENTS:
        faults.round(event)


@pytest.mark.slow
def test_many_immediate_stops(faults: Faults, capsys: pytest.CaptureFixture[str]) -> None:
    """Environment: BQCORE_FAULT_ROUNDS (of all events together), BQCORE_FAULT_SEED."""
    for _ in range(ROUNDS):
        faults.round(str(faults.rng.choice(list(EVENTS))))
    with capsys.disabled():
        for event, figures in faults.figures.items():
            print(f"\n{event}: {figures}", end="")
    for event, figures in faults.figures.items():
        # the first rounds find out when to stop
        enough = figures.interrupted >= figures.rounds / 4
        assert event == "insert" or enough or figures.rounds < 6, (event, str(figures))
