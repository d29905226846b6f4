"""The Gaussian rate-distortion bound: what an ideal code reaches that knows a set's covariance and no more.

Nothing is stored beside its bits. Codes pass it only by structure that a covariance does not show, such as
clusters.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from bqcore._validation import (
    Float32Array,
    Float64Array,
    InputTypeError,
    as_matrix_or_vector,
    as_vectors,
    check_metric,
    check_random_state,
    normalize,
    unit_rows,
)


def reverse_water_filling(variances: npt.ArrayLike, bits: float) -> Float64Array:
    """Distribute a rate over independent Gaussian components at the least total distortion.

    Parameters
    ----------
    variances : array-like of float, shape (m,)
        Not negative.
    bits : float
        The rate of a whole vector, at least 0.

    Returns
    -------
    ndarray of float64, shape (m,)
        Distortions D_i = min(theta, variance_i), with the water level theta such that
        sum_i log2(variance_i / D_i) / 2 = bits.

    Raises
    ------
    ValueError
        If a variance or the rate is negative or not finite.

    References
    ----------
    Cover & Thomas, Elements of Information Theory, 2nd ed., theorem 10.3.3.
    """
    lam = np.asarray(variances, dtype=np.float64)
    if lam.ndim != 1 or not np.isfinite(lam).all() or (lam < 0).any():
        raise ValueError(f"variances: expected a vector of finite numbers >= 0, not {variances!r}")
    if not 0 <= bits < np.inf:
        raise ValueError(f"bits: expected a finite number >= 0, not {bits}")
    positive = np.sort(lam[lam > 0])[::-1]
    if not len(positive):
        return lam.copy()
    # With the k largest components above the water its level is (sum of their log2 - 2 bits) / k; the right k
    # is the largest that leaves all k above it.
    logs = np.log2(positive)
    levels = (np.cumsum(logs) - 2 * bits) / np.arange(1, len(logs) + 1)
    active = np.flatnonzero(levels <= logs)
    distortions: Float64Array = np.minimum(lam, np.exp2(levels[active[-1]]))
    return distortions


class GaussianBound:
    """Estimates after the forward test channel of a Gaussian with the covariance of the training vectors.

    In the eigenbasis of the centred vectors, with eigenvalues lam_i and distortions D_i of
    `reverse_water_filling`, a coordinate o_i becomes ``a_i o_i + sqrt(D_i a_i) z``, a_i = 1 - D_i / lam_i, z
    standard normal. A factor per vector makes the estimate of <o, q> unbiased, as RaBitQ's does; it is taken
    over the coordinates that have rate. Norms and factors cost nothing here.

    Parameters
    ----------
    nbytes : float
        Rate in bytes per vector, more than 0.
    metric : {"l2", "ip", "cosine"}, default "l2"
    random_state : int, default 0
        Seed of the noise.

    Attributes
    ----------
    mean_ : ndarray of float32, shape (dim,)
        Of the unit vectors under cosine.
    variances_, distortions_ : ndarray of float64, shape (dim,)
        Eigenvalues, largest first, and their distortions.
    basis_ : ndarray of float32, shape (dim, n_kept)
        Eigenvectors with rate.

    References
    ----------
    Cover & Thomas, Elements of Information Theory, 2nd ed., section 10.3.
    """

    mean_: Float32Array
    variances_: Float64Array
    distortions_: Float64Array
    basis_: Float32Array

    def __init__(self, nbytes: float, metric: str = "l2", random_state: int = 0) -> None:
        if isinstance(nbytes, bool) or not isinstance(nbytes, int | float | np.number):
            raise InputTypeError(f"bytes: expected a number, not {nbytes!r}")
        if not 0 < nbytes < np.inf:
            raise ValueError(f"bytes: expected a finite number > 0, not {nbytes}")
        self.nbytes = nbytes
        self.metric = check_metric(metric)
        self.random_state = check_random_state(random_state)

    def fit(self, X: npt.ArrayLike) -> Self:
        """Take mean and covariance of X, shape (n, dim), and distribute the rate.

        Raises
        ------
        TypeError, ValueError
            As `bqcore.Codec.fit`.
        """
        vectors = as_vectors(X) if self.metric != "cosine" else normalize(X)
        mean = vectors.mean(axis=0, dtype=np.float64)
        self.mean_ = mean.astype(np.float32)
        centred: Float32Array = vectors - self.mean_
        values, basis = np.linalg.eigh((centred.T @ centred).astype(np.float64) / len(centred))
        # Rounding of the float32 product leaves eigenvalues of about this size where there is no variance.
        values[values < values[-1] * len(values) * np.finfo(np.float32).eps] = 0
        self.variances_ = values[::-1].copy()
        self.distortions_ = reverse_water_filling(self.variances_, 8 * float(self.nbytes))
        kept = self.distortions_ < self.variances_
        self.basis_ = basis[:, ::-1][:, kept].astype(np.float32)
        lam, distortion = self.variances_[kept], self.distortions_[kept]
        gain = 1 - distortion / lam
        self._gain, self._noise = gain.astype(np.float32), np.sqrt(distortion * gain).astype(np.float32)
        return self

    def encode(self, X: npt.ArrayLike) -> tuple[Float32Array, Float32Array]:
        """Send vectors through the channel.

        Parameters
        ----------
        X : ndarray of float32, shape (n, dim)

        Returns
        -------
        received : ndarray of float32, shape (n, n_kept)
            Channel outputs in the eigenbasis, times their factor.
        f_add : ndarray of float32, shape (n,)
            What the metric adds per vector: |o|^2 (l2), half of it (cosine), -<mean, o> (ip).
        """
        vectors = as_vectors(X, dim=len(self.mean_)) if self.metric != "cosine" else normalize(X)
        centred: Float32Array = vectors - self.mean_
        kept = centred @ self.basis_
        rng = np.random.default_rng(self.random_state)
        received = rng.standard_normal(kept.shape, dtype=np.float32)
        received *= self._noise
        received += kept * self._gain
        along = np.einsum("ij,ij->i", kept, received)
        factor = np.zeros_like(along)
        np.divide(np.einsum("ij,ij->i", kept, kept), along, out=factor, where=along > 0)
        received *= factor[:, np.newaxis]
        if self.metric == "ip":
            return received, np.negative(centred @ self.mean_, dtype=np.float32)
        squared: Float32Array = np.einsum("ij,ij->i", centred, centred)
        squared *= np.float32(1 if self.metric == "l2" else 0.5)
        return received, squared

    def estimate(self, codes: tuple[Float32Array, Float32Array], Q: npt.ArrayLike) -> Float32Array:
        """Estimate distances in the unit of the metric.

        Parameters
        ----------
        codes : tuple
            From `encode`.
        Q : ndarray of float32, shape (n_queries, dim)

        Returns
        -------
        ndarray of float32, shape (n_queries, n)
        """
        queries, _ = as_matrix_or_vector(Q, dim=len(self.mean_))
        if self.metric == "cosine":
            queries = unit_rows(queries).astype(np.float32)
        received, f_add = codes
        centred: Float32Array = queries - self.mean_
        g_add: Float32Array
        if self.metric == "ip":
            g_add = np.negative(queries @ self.mean_, dtype=np.float32)
        else:
            g_add = np.einsum("ij,ij->i", centred, centred)
            g_add *= np.float32(1 if self.metric == "l2" else 0.5)
        projected: Float32Array = centred @ self.basis_
        projected *= np.float32(-2 if self.metric == "l2" else -1)
        out: Float32Array = projected @ received.T
        out += f_add
        out += g_add[:, np.newaxis]
        return out
