from __future__ import annotations

import time

import numpy as np
import pytest

from bqcore import RaBitQ, _kernels

BEST = _kernels.supported_isas()[-1]


@pytest.mark.skipif(BEST == "scalar", reason="this machine has scalar kernels alone")
def test_one_bit_encoding_takes_300_000_vectors_per_second_and_core():
    X = np.random.default_rng(0).standard_normal((20_000, 384)).astype(np.float32)
    quantizer = RaBitQ().fit(X)
    before = _kernels.active_isa()
    _kernels.select_isa(BEST)
    times = []
    for _ in range(3):
        start = time.process_time()
        quantizer.encode(X)
        times.append(time.process_time() - start)
    _kernels.select_isa(before)
    assert len(X) / min(times) >= 300_000
