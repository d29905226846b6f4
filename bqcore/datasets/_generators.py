"""Seeded vectors for tests and for people without data."""

from __future__ import annotations

import numpy as np

from bqcore._validation import (
    MAX_DIM,
    Float32Array,
    Float64Array,
    check_int,
    check_metric,
    check_random_state,
)
from bqcore.datasets._dataset import Dataset
from bqcore.evaluation import exact_search


def gaussian(
    n: int, dim: int, *, n_queries: int = 100, metric: str = "l2", k: int = 100, random_state: int
) -> Dataset:
    """Draw independent standard normal vectors: no structure, the hardest case for every codec.

    Parameters
    ----------
    n, dim : int
        Shape of the base.
    n_queries : int, default 100
        Queries, drawn from the same distribution.
    metric : {"l2", "ip", "cosine"}
        Metric of the ground truth.
    k : int, default 100
        Columns of the ground truth, at most n.
    random_state : int
        Seed in [0, 2**64).

    Returns
    -------
    Dataset
        With exact ground truth.

    Raises
    ------
    TypeError, ValueError
        If a parameter is out of range.
    """
    n, dim, n_queries = _check_shape(n, dim, n_queries)
    rng = np.random.default_rng(check_random_state(random_state))
    drawn = rng.standard_normal((n + n_queries, dim), dtype=np.float32)
    return _finish(f"gaussian_{n}x{dim}", drawn, n, metric, k)


def clustered(
    n: int,
    dim: int,
    *,
    n_clusters: int = 32,
    spectrum_exponent: float = 0.75,
    offset: float = 0.5,
    within: float = 0.5,
    n_queries: int = 100,
    metric: str = "l2",
    k: int = 100,
    random_state: int,
) -> Dataset:
    """Draw vectors like those of an embedding model: clusters, a decaying spectrum, a common mean.

    In a random orthonormal basis, ``row = offset * m + centre + noise``: m is a unit vector, and centre and
    noise are normal with variances proportional to ``i**-spectrum_exponent`` that add up to 1.

    Parameters
    ----------
    n, dim : int
        Shape of the base.
    n_clusters : int, default 32
        Number of centres; every row picks one at random.
    spectrum_exponent : float, default 0.75
        Decay of the eigenvalues of the covariance; 0 is isotropic.
    offset : float, default 0.5
        Length of the mean vector in units of the root mean square length of what is added to it.
    within : float, default 0.5
        Share of the variance inside clusters, from 0 (rows equal their centres) to 1 (no clusters).
    n_queries, metric, k, random_state
        As in `gaussian`.

    Returns
    -------
    Dataset
        With exact ground truth.

    Raises
    ------
    TypeError, ValueError
        If a parameter is out of range.
    """
    n, dim, n_queries = _check_shape(n, dim, n_queries)
    n_clusters = check_int(n_clusters, name="n_clusters", low=1)
    if not 0 <= within <= 1:
        raise ValueError(f"within: expected 0 to 1, not {within}")
    for name, value in (("spectrum_exponent", spectrum_exponent), ("offset", offset)):
        if not 0 <= value < np.inf:
            raise ValueError(f"{name}: expected a finite number of at least 0, not {value}")

    rng = np.random.default_rng(check_random_state(random_state))
    variances = np.arange(1, dim + 1, dtype=np.float64) ** -spectrum_exponent
    deviations = np.sqrt(variances / variances.sum())
    basis = _orthonormal(rng, dim)
    mean = rng.standard_normal(dim)
    mean *= offset / np.linalg.norm(mean)
    centres = rng.standard_normal((n_clusters, dim)) * deviations * np.sqrt(1 - within)
    members = rng.integers(n_clusters, size=n + n_queries)
    rows = rng.standard_normal((n + n_queries, dim))
    rows *= deviations * np.sqrt(within)
    rows += centres[members]
    drawn = (rows @ basis + mean).astype(np.float32)
    return _finish(f"clustered_{n}x{dim}", drawn, n, metric, k)


def _check_shape(n: int, dim: int, n_queries: int) -> tuple[int, int, int]:
    return (
        check_int(n, name="n", low=1),
        check_int(dim, name="dim", low=1, high=MAX_DIM),
        check_int(n_queries, name="n_queries", low=1),
    )


def _orthonormal(rng: np.random.Generator, dim: int) -> Float64Array:
    q, r = np.linalg.qr(rng.standard_normal((dim, dim)))
    # LAPACK is free to choose the signs; a positive diagonal of r makes the basis the same everywhere.
    basis: Float64Array = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return basis


def _finish(name: str, drawn: Float32Array, n: int, metric: str, k: int) -> Dataset:
    checked_metric = check_metric(metric)
    k = check_int(k, name="k", low=1)
    base, queries = drawn[:n], drawn[n:]
    truth, _ = exact_search(base, queries, min(k, n), checked_metric)
    return Dataset(name, base, queries, checked_metric, truth)
