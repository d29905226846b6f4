"""SEARCH: which of the possible first stages a scan index is laid out for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bqcore._native import lib
from bqcore._validation import Float32Array
from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.scan_stages import StagePlan

# Rows and queries of the trial that chooses the first stage.
_TRIAL_ROWS = 1 << 14
_TRIAL_SHARE = 16  # of many codes one in so many: what is read whole is extrapolated no further
_TRIAL_MIN_ROWS = 1 << 12
_TRIAL_QUERIES = 16

# What makes a code be read whole, and reading it, takes as long as so many look-ups of a scan: .1 us (RaBitQ)
# to .2 us (SAQ) beside .013 ns in the caches and .02 ns beyond them, with AVX2 at 384 dimensions. Fewer, as
# rows decoded from codes ask for up to twice as many as queries do.
_WHOLE_LOOKUPS = 10000
_WHOLE_LOOKUPS_BEYOND = 3300
# Error of the rows that stand for queries, of what their codes leave of a Gaussian.
_TRIAL_ERROR = 0.3


def choose_plan(
    quantizer: Codec,
    codes: Codes,
    plans: list[StagePlan],
    trial: Callable[[Codes, int, Float32Array, int], float],
    k: int,
) -> int:
    """Return the number of the first stage that takes least, on a sample of the codes.

    Rows decoded from codes, blurred, stand for queries. Reading a code whole counts as the look-ups that take
    its time: where neighbours are hardly nearer than other rows, many codes pass a short first stage.

    Parameters
    ----------
    quantizer : Codec
    codes : Codes
    plans : list of StagePlan
    trial : callable
        Mean number of codes that a search for so many neighbours of queries reads whole, of some codes with a
        plan.
    k : int
        Neighbours that searches will ask for.
    """
    if len(plans) == 1 or len(codes) < _TRIAL_MIN_ROWS:
        return len(plans) - 1
    n = min(len(codes), max(_TRIAL_ROWS, len(codes) // _TRIAL_SHARE))
    some = codes[np.linspace(0, len(codes) - 1, n).astype(np.int64)]
    queries = _blurred(quantizer.decode(some[np.linspace(0, n - 1, _TRIAL_QUERIES).astype(np.int64)]), codes)
    cached = len(codes) * plans[0].stage.n_rows <= lib.BQK_SCAN_CACHED_NBYTES
    whole_lookups = _WHOLE_LOOKUPS if cached else _WHOLE_LOOKUPS_BEYOND
    costs = []
    for number, plan in enumerate(plans):
        # one more: the row that the query came from
        found = [trial(part, number, queries, k + 1) for part in (some, some[::4])]
        # the number read grows as a power of the number of codes: most are read while the threshold falls
        power = float(np.clip(np.log(found[0] / found[1]) / np.log(4), 0, 1))
        whole = found[0] * (len(codes) / n) ** power
        costs.append(plan.stage.n_lookups + whole_lookups * whole / len(codes))
    return int(np.argmin(costs))


def _blurred(rows: Float32Array, codes: Codes) -> Float32Array:
    """Return decoded rows with some of the error of codes, which is 4^-b of a Gaussian's variance at b bits.

    Without it the coordinates of rows of 1-bit codes have one magnitude, the rounding of one look-up is that
    of all, and searches read 20 times as many codes as those of queries do.
    """
    left = 4.0 ** (-8.0 * codes.packed.shape[1] / rows.shape[1])
    spread = float(np.square(rows - rows.mean(axis=0)).mean())
    noise = np.random.default_rng(0).standard_normal(rows.shape)
    scale = float(np.sqrt(_TRIAL_ERROR * spread * left / (1.0 - left)))
    return np.asarray(rows + scale * noise, dtype=np.float32)
