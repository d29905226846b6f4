"""RaBitQ in float64, written from its definitions and sharing nothing with the kernels but the bit layout.

The rotation is a matrix, the best 4-bit grid comes from every step at which a level changes, and integers are
sums over unpacked levels.
"""

from __future__ import annotations

from math import exp, lgamma, pi, sqrt

import numpy as np

MASK = 2**64 - 1


def signs(dim, seed):
    """Four rounds of dim signs, a bit each from splitmix64, lowest bit first."""
    words = []
    state = seed
    for _ in range(-(-4 * dim // 64)):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        words.append(z ^ (z >> 31))
    bits = np.unpackbits(np.array(words, dtype="<u8").view(np.uint8), bitorder="little")
    return 2.0 * bits[: 4 * dim].reshape(4, dim) - 1.0


def hadamard(n):
    """Sylvester's matrix of order n, orthogonal."""
    H = np.ones((1, 1))
    while len(H) < n:
        H = np.block([[H, H], [H, -H]])
    return H / sqrt(n)


def rotation(dim, seed):
    """The matrix R with rotated = R @ x."""
    p = 1 << (dim.bit_length() - 1)
    half = dim // 2
    R = np.eye(dim)
    for number, flips in enumerate(signs(dim, seed)):
        R = flips[:, None] * R
        rows = slice(dim - p, dim) if number % 2 else slice(0, p)
        R[rows] = hadamard(p) @ R[rows]
        if p != dim and number in (1, 2):
            a, b = R[:half].copy(), R[half : 2 * half].copy()
            R[:half], R[half : 2 * half] = (a + b) / sqrt(2), (a - b) / sqrt(2)
    return R


def unpack(codes, dim, bits):
    """Level indices u of packed codes, shape (n, dim)."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    levels = codes[:, :, None] >> shifts & np.uint8((1 << bits) - 1)
    return levels.reshape(len(codes), -1)[:, :dim].astype(np.int64)


def query_levels(z, dim, bits):
    """Query coordinates in their own order; in a block kernels group them by their place in a code byte."""
    if bits > 1:
        per_byte = 8 // bits
        z = z.reshape(-1, per_byte, 64 // per_byte).transpose(0, 2, 1).reshape(-1)
    return z[:dim].astype(np.int64)


def plane_levels(planes, dim):
    """Levels of a query held as bit planes: 16 bytes of each for 128 dims, plane 3 the sign."""
    bits = np.unpackbits(planes.view(np.uint8).reshape(-1, 16), axis=1, bitorder="little").astype(np.int64)
    blocks = bits[: -(-dim // 128) * 4].reshape(-1, 4, 128)
    return (blocks * np.array([1, 2, 4, -8])[:, None]).sum(axis=1).ravel()[:dim]


def best_cosine(o, bits):
    """Largest cosine between o and any code, over every step at which one of its levels changes."""
    if bits == 1:
        return np.abs(o).sum() / sqrt(len(o)) / np.linalg.norm(o)
    y = np.sort(np.abs(o[o != 0]))
    top = (1 << bits) // 2
    steps = np.concatenate([m / y for m in range(1, top)])  # t y passes m: its level grows
    steps = np.append(np.sort(steps) * (1 + 1e-12), 0.0)
    best = 0.0
    for t in steps:
        k = np.minimum(np.floor(t * y), top - 1) + 0.5
        best = max(best, (k @ y) / sqrt(k @ k + 0.25 * (len(o) - len(y))))
    return best / np.linalg.norm(o)


def residuals(X, centroid, metric):
    """Vectors relative to the centroid, normalised first under cosine."""
    X = np.asarray(X, dtype=np.float64)
    if metric == "cosine":
        X = X / np.linalg.norm(X, axis=1, keepdims=True)
    return X - centroid.astype(np.float64)


def centred_query(q, centroid, metric):
    """Return q - s c and s: 1, under ip the share of c that leaves the rest orthogonal to it."""
    c = centroid.astype(np.float64)
    if metric != "ip":
        return residuals(q[None], centroid, metric)[0], 1.0
    s = (q @ c) / (c @ c) if c @ c >= 1e-30 else 0.0
    return q - s * c, s


def distances(X, Q, metric):
    """Exact distances, shape (n_queries, n), in the unit of the metric."""
    X, Q = np.asarray(X, dtype=np.float64), np.asarray(Q, dtype=np.float64)
    if metric == "l2":
        return (Q**2).sum(1)[:, None] + (X**2).sum(1) - 2 * Q @ X.T
    if metric == "cosine":
        X, Q = X / np.linalg.norm(X, axis=1, keepdims=True), Q / np.linalg.norm(Q, axis=1, keepdims=True)
        return 1 - Q @ X.T
    return -Q @ X.T


def estimate(X, q, levels, z, delta, centroid, R, metric, bits):
    """Estimated distances from the definition: <o, q'> ~ |o|^2 <k, delta z> / <o, k>."""
    o = residuals(X, centroid, metric) @ R.T
    k = levels - ((1 << bits) - 1) / 2
    n2 = (o**2).sum(axis=1)
    product = n2 * (k @ (delta * z)) / (o * k).sum(axis=1)
    c = centroid.astype(np.float64)
    if metric == "ip":
        return -(
            q @ c + centred_query(q, centroid, metric)[1] * (residuals(X, centroid, metric) @ c) + product
        )
    q2 = (residuals(q[None], centroid, metric) ** 2).sum()
    return n2 + q2 - 2 * product if metric == "l2" else (n2 + q2) / 2 - product


def mean_cosine(dim):
    """E <o, obar> of a 1-bit code of a unit vector of random direction (Gao & Long 2024)."""
    return sqrt(dim / pi) * exp(lgamma(dim / 2) - lgamma((dim + 1) / 2))
