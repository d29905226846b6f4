"""TRAIN: bits per segment under an exact budget."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float64Array

#: Mean squared error of a unit Gaussian under the 8-state trellis at 0 to 8 bits (200,000 draws; tests repeat
#: it). The rate-distortion bound is 4^-bits.
DISTORTION = (1.0, 0.3062, 0.08623, 0.02361, 0.006231, 0.001595, 4.093e-4, 1.06e-4, 2.719e-5)


def allocate(variance: Float64Array, sizes: npt.NDArray[np.int64], budget: int) -> npt.NDArray[np.uint8]:
    """Choose the bits per axis of every segment, 0 to 8, that make the expected squared error least.

    Parameters
    ----------
    variance : ndarray of float64, shape (n_segments,)
        Sum of the (weighted) variances of a segment's axes. A segment of variance 0 gets no bits.
    sizes : ndarray of int64, shape (n_segments,)
        Axes of a segment.
    budget : int
        Bits of a code; no more are used.

    Returns
    -------
    ndarray of uint8, shape (n_segments,)

    References
    ----------
    Li et al., "SAQ: Pushing the Limits of Vector Quantization through Code Adjustment and Dimension
    Segmentation", 2025: dynamic programming over segments; here with the quantizer's own error.
    """
    unit = int(np.gcd.reduce(sizes))
    slots = budget // unit + 1
    least = np.full(slots, np.inf)
    least[0] = 0.0
    chosen = np.zeros((len(sizes), slots), dtype=np.uint8)
    for segment, size in enumerate(sizes // unit):
        before = least
        least = before + variance[segment] * DISTORTION[0]
        for bits in range(1, 9 if variance[segment] > 0 else 1):
            used = bits * int(size)
            if used >= slots:
                break
            error = before[: slots - used] + variance[segment] * DISTORTION[bits]
            better = error < least[used:]
            least[used:][better] = error[better]
            chosen[segment, used:][better] = bits
    out = np.zeros(len(sizes), dtype=np.uint8)
    slot = int(np.argmin(least))
    for segment in range(len(sizes) - 1, -1, -1):
        out[segment] = chosen[segment, slot]
        slot -= int(out[segment]) * int(sizes[segment] // unit)
    return out
