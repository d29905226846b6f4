"""Speed as a ratio within one run: what vector instructions are for, whatever the machine."""

from __future__ import annotations

import time

import numpy as np
import pytest

from bqcore import RaBitQ, _kernels

BEST = _kernels.supported_isas()[-1]


@pytest.mark.skipif(BEST == "scalar", reason="this machine has scalar kernels alone")
def test_vector_instructions_encode_one_bit_faster_than_scalar_ones():
    X = np.random.default_rng(0).standard_normal((3_000, 384)).astype(np.float32)
    quantizer = RaBitQ().fit(X)
    before = _kernels.active_isa()
    least = dict.fromkeys(("scalar", BEST), np.inf)
    for _ in range(5):  # in turns, so that both meet the same neighbours
        for isa in least:
            _kernels.select_isa(isa)
            start = time.process_time()
            quantizer.encode(X)
            least[isa] = min(least[isa], time.process_time() - start)
    _kernels.select_isa(before)
    assert least[BEST] < 0.8 * least["scalar"], least
