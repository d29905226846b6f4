"""Rows like those of a data set: jittered copies, Gaussian with its spectrum, or with more dimensions."""

from __future__ import annotations

import numpy as np

from bqcore._validation import Float32Array, normalize
from bqcore.datasets import Dataset
from bqcore.evaluation import exact_search

#: How `with_dimensions` makes its rows.
DRAWS = ("data", "gaussian")

# Rows drawn at a time: the float64 product of a block stays small beside a million rows.
_BLOCK = 50_000


def jittered(X: Float32Array, n: int, share: float = 0.3, seed: int = 0) -> Float32Array:
    """Return n rows like those of X: each a row of X plus noise of `share` of the coordinates' deviations."""
    rng = np.random.default_rng(seed)
    noise = share * X.std(axis=0)
    out = np.empty((n, X.shape[1]), dtype=np.float32)
    for start in range(0, n, len(X)):
        some = X[: n - start]
        out[start : start + len(some)] = some + noise * rng.standard_normal(some.shape, dtype=np.float32)
    return out


class Spectrum:
    """The eigenvalues of a data set, stretched over `dim` axes of a random basis.

    Parameters
    ----------
    data : Dataset
        Rows are normalised first where the metric is cosine.
    dim : int
        Dimensions of the drawn rows.
    rng : numpy.random.Generator
        Gives the basis.

    Notes
    -----
    Eigenvalues are interpolated in their logarithm and scaled to the data's total variance.
    """

    def __init__(self, data: Dataset, dim: int, rng: np.random.Generator) -> None:
        rows = normalize(data.base) if data.metric == "cosine" else data.base
        self._normalized = data.metric == "cosine"
        self._mean = rows.mean(axis=0)
        self._mean_norm = np.linalg.norm(self._mean)
        values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False))
        spectrum, self._components = values[::-1].clip(1e-12), vectors[:, ::-1]
        at = np.linspace(0, len(spectrum) - 1, dim)
        stretched = np.exp(np.interp(at, np.arange(len(spectrum)), np.log(spectrum)))
        self._scale = np.sqrt(stretched * spectrum.sum() / stretched.sum())
        self._deviation = np.sqrt(spectrum)
        basis, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
        self._axes = basis.T

    def centre(self, rng: np.random.Generator) -> Float32Array:
        """Return a random direction with the length of the data's mean, shape (dim,)."""
        drawn = rng.standard_normal(len(self._scale))
        return (drawn * self._mean_norm / np.linalg.norm(drawn)).astype(np.float32)

    def draw(self, n: int, rng: np.random.Generator) -> Float32Array:
        """Return n rows of mean zero; of the same generator's state fewer rows are the first of more."""
        dim = len(self._scale)
        out = np.empty((n, dim), np.float32)
        for start in range(0, n, _BLOCK):
            count = min(_BLOCK, n - start)
            drawn = rng.standard_normal((count, dim), dtype=np.float32) * self._scale
            out[start : start + count] = drawn @ self._axes
        return out

    def stretch(self, X: Float32Array, rng: np.random.Generator) -> Float32Array:
        """Return rows of the data set in `dim` dimensions, of mean zero: who is near whom stays, up to noise.

        Their principal components get the deviations of the first axes; the further axes are Gaussian.
        """
        own = (normalize(X) if self._normalized else X) - self._mean
        scores = np.asarray(own @ self._components / self._deviation, np.float32)
        more = rng.standard_normal((len(X), len(self._scale) - scores.shape[1]), dtype=np.float32)
        coordinates = np.concatenate([scores, more], axis=1) * self._scale
        return np.asarray(coordinates @ self._axes, np.float32)


def with_dimensions(
    data: Dataset, dim: int, *, rows: int, n_queries: int, draw: str = "data", k: int = 10
) -> Dataset:
    """Return a set of `dim` dimensions with the data's spectrum and its exact k nearest rows.

    By `draw` the rows are those of the data, stretched, or "gaussian": without clusters, so that all
    neighbours are about equally far and graphs do worse than on embeddings.
    """
    rng = np.random.default_rng(0)
    spectrum = Spectrum(data, dim, rng)
    centre = spectrum.centre(rng)
    if draw == "gaussian":
        drawn = spectrum.draw(rows + n_queries, rng)
        X, Q = drawn[:rows], drawn[rows:]
    else:
        X, Q = spectrum.stretch(data.base[:rows], rng), spectrum.stretch(data.queries[:n_queries], rng)
    X, Q = X + centre, Q + centre
    truth, _ = exact_search(X, Q, k, data.metric)
    return Dataset(f"{data.name}, {draw}, at {dim}", X, Q, data.metric, truth)
