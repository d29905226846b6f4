"""Coordinates one by one: variance, spectrum, and which are dead or have two heaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bqcore._validation import Float32Array, Float64Array, IdArray, unit_rows

# Rows that moments are taken from: the relative error of a variance is sqrt(2 / rows), 1 % here.
_ROWS = 20_000
# A coordinate is dead where its variance is below this share of the mean one.
_DEAD = 1e-6
# Pearson's kurtosis is 3 for a Gaussian, 1.8 for a uniform variable and 1 for two equal heaps. Below this two
# heaps stand apart: a mixture of two Gaussians of equal weight at +-a with deviation s has 3 - 2 / (1 + s^2 /
# a^2)^2, which is 1.68 at a = 2.1 s, where the valley between them is a quarter of their height.
_BIMODAL = 1.68


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Moments of each coordinate, and of the directions of most variance; of unit vectors under cosine.

    Parameters
    ----------
    mean, variance : ndarray of float64, shape (dim,)
    spectrum : ndarray of float64, shape (dim,)
        Eigenvalues of the covariance, largest first.
    dead, bimodal : ndarray of int64
        Numbers of coordinates without variance, and of those whose values lie in two heaps.
    """

    mean: Float64Array
    variance: Float64Array
    spectrum: Float64Array
    dead: IdArray
    bimodal: IdArray

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, rounded to five digits, for JSON."""
        return {
            "mean": [float(f"{x:.5g}") for x in self.mean],
            "variance": [float(f"{x:.5g}") for x in self.variance],
            "spectrum": [float(f"{x:.5g}") for x in self.spectrum],
            "dead": self.dead.tolist(),
            "bimodal": self.bimodal.tolist(),
        }


def coordinates_of(X: Float32Array, metric: str, random_state: int = 0) -> Coordinates:
    """Take moments of up to 20,000 rows.

    Parameters
    ----------
    X : ndarray of float32, shape (n, dim)
        Without zero rows under cosine.
    metric : {"l2", "ip", "cosine"}
    random_state : int, default 0

    Returns
    -------
    Coordinates
    """
    rows = X
    if len(X) > _ROWS:
        rows = X[np.sort(np.random.default_rng(random_state).choice(len(X), _ROWS, replace=False))]
    wide = unit_rows(rows) if metric == "cosine" else rows.astype(np.float64)
    mean = wide.mean(axis=0)
    centred = wide - mean
    square = np.square(centred)
    variance = square.mean(axis=0)
    fourth = np.square(square).mean(axis=0)
    floor = _DEAD * float(variance.mean())
    live = variance > floor
    kurtosis = np.full(len(variance), 3.0)
    kurtosis[live] = fourth[live] / np.square(variance[live])
    spectrum = np.maximum(np.linalg.eigvalsh(centred.T @ centred / len(centred))[::-1], 0)
    return Coordinates(
        mean,
        variance,
        spectrum,
        np.flatnonzero(~live).astype(np.int64),
        np.flatnonzero(live & (kurtosis < _BIMODAL)).astype(np.int64),
    )
