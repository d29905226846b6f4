"""What residual codecs estimate: distances with <o, q - c> taken from the code and everything else exact."""

from __future__ import annotations

import numpy as np
import pytest

from bqcore import make_codec

SPECS = ["learned_binary", "sign_magnitude", "turbo(rotation=none, bits=1)", "turbo(bits=3)"]


def clustered(n=300, dim=30, seed=0):
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(7, dim)) + 2
    return (centres[rng.integers(7, size=n)] + rng.normal(size=(n, dim))).astype(np.float32)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("centroids", [0, 1, 6])
@pytest.mark.parametrize("spec", SPECS)
def test_estimates_follow_their_formula(spec, centroids, metric):
    X, Q = clustered(), clustered(9)
    codec = make_codec(spec, metric=metric).set_params(centroids=centroids).fit(X)
    codes = codec.encode(X)
    found = codec.estimate(codes, Q)
    if metric == "cosine":
        X, Q = (A / np.linalg.norm(A, axis=1, keepdims=True) for A in (X, Q))
    lists = codes.factors["list"] if centroids > 1 else np.zeros(len(X), dtype=int)
    c = codec.centroids_[lists]
    # under ip the query less its projection on the centroid, else less the centroid
    length2 = np.square(c).sum(axis=1)
    s = np.divide(Q @ c.T, length2, out=np.zeros((len(Q), len(c))), where=length2 > 0)
    share = s[:, :, np.newaxis] if metric == "ip" else 1
    estimated = np.einsum("nd,qnd->qn", codec.decode(codes) - c, Q[:, np.newaxis] - share * c)
    if metric == "ip":
        expected = -(Q @ c.T) - s * ((X - c) * c).sum(axis=1) - estimated
    else:
        expected = np.square(X - c).sum(1) + np.square(Q[:, np.newaxis] - c).sum(2) - 2 * estimated
    if metric == "cosine":
        expected /= 2
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("centroids", "nbytes"), [(0, 8), (1, 8), (2, 9), (256, 9), (257, 10)])
def test_list_ids_take_the_bytes_they_need(centroids, nbytes):
    X = np.random.default_rng(0).normal(size=(600, 16)).astype(np.float32)
    codec = make_codec(f"turbo(bits=1, centroids={centroids})").fit(X)
    assert codec.bytes_per_vector == 2 + nbytes
    assert len(np.unique(codec.encode(X).factors["list"]) if centroids > 1 else [0]) == max(1, centroids)
