"""Closed forms: how well scores of codes follow exact scores, from the covariance alone.

The model of T1, T2 and the axis forms is x, q independent N(0, S), S a covariance. Fidelity is the
correlation over pairs of the exact score <q, x> with the score of the codes. "Symmetric" compares two codes,
"asymmetric" a float query with a code. Centre first: a common mean is no part of these models.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float64Array, as_vectors, check_int

#: Correlation of a Gaussian with its sign: sqrt(2 / pi).
ETA_SIGN = math.sqrt(2 / math.pi)


def _covariance(S: npt.ArrayLike) -> Float64Array:
    sigma = as_vectors(S, name="S", dtype=np.float64)
    if sigma.shape[0] != sigma.shape[1]:
        raise ValueError(f"S: expected a square matrix, not one of shape {sigma.shape}")
    alive = sigma.diagonal() > 0
    if not alive.any():
        raise ValueError("S: expected a positive variance, not only zeros")
    return sigma[np.ix_(alive, alive)]  # a dead coordinate has no sign and no score


def _sign_correlation(sigma: Float64Array) -> Float64Array:
    """E[sign x_i sign x_j] = 2/pi asin r_ij (the arcsine law)."""
    scale = 1 / np.sqrt(sigma.diagonal())
    return (2 / math.pi) * np.arcsin(np.clip(sigma * np.outer(scale, scale), -1, 1))


def symmetric_sign_fidelity(S: npt.ArrayLike) -> float:
    """Fidelity of sign codes compared with sign codes (T1), in any basis.

    Parameters
    ----------
    S : ndarray, shape (dim, dim)
        Covariance. Coordinates of variance 0 are left out.

    Returns
    -------
    float
        Correlation of <q, x> with <sign q, sign x>.

    Raises
    ------
    ValueError
        If S is not square or has no positive variance.

    References
    ----------
    Bussgang 1952 for E[x sign x']; Van Vleck & Middleton 1966 for the arcsine law.
    """
    sigma = _covariance(S)
    square = np.square(sigma)
    through = (2 / math.pi) * (square.sum(axis=1) / sigma.diagonal()).sum()
    return float(through / math.sqrt(square.sum() * np.square(_sign_correlation(sigma)).sum()))


def asymmetric_sign_fidelity(S: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Fidelity of float queries against sign codes (T2), in any basis.

    Parameters
    ----------
    S : ndarray, shape (dim, dim)
        Covariance. Coordinates of variance 0 are left out.
    weights : ndarray, shape (dim,), optional
        Factor of each coordinate of the query, 1 by default; standard deviations restore sqrt(2/pi) for every
        spectrum where S is diagonal.

    Returns
    -------
    float
        Correlation of <q, x> with <w q, sign x>.

    Raises
    ------
    ValueError
        As `symmetric_sign_fidelity`; also if there is not one weight per coordinate.
    """
    sigma = _covariance(S)
    w = np.ones(len(sigma))
    if weights is not None:
        given = np.asarray(weights, dtype=np.float64)
        variances = np.asarray(S, dtype=np.float64).diagonal()
        if given.shape != variances.shape:
            raise ValueError(f"weights: expected shape {variances.shape}, not {given.shape}")
        w = given[variances > 0]
    square = np.square(sigma)
    through = ETA_SIGN * (w * square.sum(axis=1) / np.sqrt(sigma.diagonal())).sum()
    spread = (np.outer(w, w) * sigma * _sign_correlation(sigma)).sum()
    return float(through / math.sqrt(square.sum() * spread))


def magnitude_bit_fidelity(variances: npt.ArrayLike, *, symmetric: bool) -> float:
    """Fidelity of sign and magnitude bits on uncorrelated axes that are kept as they are.

    A coordinate beyond t = sqrt(2/pi) mean(sigma) counts twice.

    Parameters
    ----------
    variances : ndarray, shape (dim,)
        Of the coordinates.
    symmetric : bool
        Codes against codes, or float queries against codes.

    Returns
    -------
    float
        Correlation with the exact score.
    """
    lam = np.asarray(variances, dtype=np.float64)
    lam = lam[lam > 0]
    sigma = np.sqrt(lam)
    t = ETA_SIGN * sigma.mean()
    c = sigma * ETA_SIGN * (1 + np.exp(-(t**2) / (2 * lam)))  # E[x code]
    beyond = np.array([math.erfc(t / (s * math.sqrt(2))) for s in sigma])
    v = 1 + 3 * beyond  # E[code^2]
    if symmetric:
        return float((c**2).sum() / math.sqrt((lam**2).sum() * (v**2).sum()))
    return float((lam * c).sum() / math.sqrt((lam**2).sum() * (lam * v).sum()))


@cache
def uniform_distortion(bits: int) -> float:
    """Mean squared error of the best uniform quantizer of N(0, 1) with 2^bits levels.

    Parameters
    ----------
    bits : int
        0 to 8; 0 stores nothing and loses everything.

    Returns
    -------
    float
        1, .3634, .1188, .0374, .0115, .0035, ... (Max 1960).
    """
    bits = check_int(bits, name="bits", low=0, high=8)
    if bits == 0:
        return 1.0

    def pdf(x: float) -> float:
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    def error(step: float) -> float:
        # E(x - y)^2 over the cells of the positive half, by parts; the last one is open
        levels, total = 1 << (bits - 1), 0.0
        for i in range(levels):
            low, y = i * step, (i + 0.5) * step
            high = low + step if i < levels - 1 else math.inf
            tail = 0.0 if math.isinf(high) else high * pdf(high)
            edge = 0.0 if math.isinf(high) else pdf(high)
            mass = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
            total += (low * pdf(low) - tail + mass) - 2 * y * (pdf(low) - edge) + y * y * mass
        return 2 * total

    low, high = 0.0, 4.0
    for _ in range(80):  # golden section: the error has one minimum in the step
        a, b = high - (high - low) * 0.6180339887, low + (high - low) * 0.6180339887
        low, high = (low, b) if error(a) < error(b) else (a, high)
    return error((low + high) / 2)


def eta(bits: int) -> float:
    """Correlation of a Gaussian coordinate with its level at `bits` bits: sqrt(1 - distortion).

    Parameters
    ----------
    bits : int
        1 to 8.

    Returns
    -------
    float
        .7979, .9387, .9811, .9942, ...
    """
    return math.sqrt(1 - uniform_distortion(check_int(bits, name="bits", low=1, high=8)))


def rotated_fidelity(eta: float, effective_share: float, *, symmetric: bool = False) -> float:
    """Fidelity of any scalar quantizer after a random rotation (law R).

    1 / rho^2 - 1 = (1 / eta^2 - 1) d_eff / d, with eta^2 in place of eta for two codes.

    Parameters
    ----------
    eta : float
        Correlation of a coordinate with its level, in (0, 1].
    effective_share : float
        Effective dimension over dimension, in (0, 1].
    symmetric : bool, default False
        Codes against codes.

    Returns
    -------
    float
        Within .009 of simulations at shares of .55 and more, .021 at .2 to .3 and .05 below; there T1 and T2
        of the rotated covariance are the better forms.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    for name, value in (("eta", eta), ("effective_share", effective_share)):
        if not 0 < value <= 1 + 1e-9:
            raise ValueError(f"{name}: expected a number in (0, 1], not {value}")
    return 1 / math.sqrt(1 + (1 / eta ** (4 if symmetric else 2) - 1) * effective_share)


def allocated_fidelity(variances: npt.ArrayLike, bits: npt.ArrayLike) -> float:
    """Fidelity of scalar codes with `bits[i]` bits on uncorrelated axes of given variances (0 bits: dropped).

    Parameters
    ----------
    variances : ndarray, shape (dim,)
    bits : ndarray of int, shape (dim,)
        0 to 8 each.

    Returns
    -------
    float
        sqrt(1 - sum lam^2 D(b) / sum lam^2).
    """
    lam2 = np.square(np.asarray(variances, dtype=np.float64))
    lost = np.array([uniform_distortion(int(b)) for b in np.asarray(bits).ravel()])
    if lost.shape != lam2.shape:
        raise ValueError(f"bits: expected shape {lam2.shape}, not {lost.shape}")
    return math.sqrt(max(0.0, 1 - float((lam2 * lost).sum() / lam2.sum())))


def plug_in_fidelity(
    X: npt.ArrayLike, decoded: npt.ArrayLike, Q: npt.ArrayLike, Q_decoded: npt.ArrayLike | None = None
) -> float:
    """Fidelity of any codec on any data (T3): second moments of samples, q and x as if independent.

    Parameters
    ----------
    X, decoded : ndarray, shape (n, dim)
        Vectors and what their codes stand for, row by row.
    Q : ndarray, shape (n_queries, dim)
        Queries.
    Q_decoded : ndarray, shape (n_queries, dim), optional
        What the queries' codes stand for: codes are then compared with codes.

    Returns
    -------
    float
        Correlation over all pairs of <q, x> with <q, decoded>.

    Raises
    ------
    ValueError
        If shapes differ or values are not finite.
    """
    x = as_vectors(X, dtype=np.float64)
    y = as_vectors(decoded, name="decoded", dim=x.shape[1], dtype=np.float64)
    q = as_vectors(Q, name="Q", dim=x.shape[1], dtype=np.float64)
    p = q if Q_decoded is None else as_vectors(Q_decoded, name="Q_decoded", dim=x.shape[1], dtype=np.float64)
    for name, one, other in (("decoded", y, x), ("Q_decoded", p, q)):
        if len(one) != len(other):
            raise ValueError(f"{name}: expected {len(other)} rows, not {len(one)}")

    def moment(a: Float64Array, b: Float64Array) -> Float64Array:
        return np.asarray(a.T @ b / len(a))

    # cov(<q,x>, <p,y>) = tr E[p q'] E[x y'] - <Eq,Ex> <Ep,Ey>
    mean_exact, mean_coded = q.mean(0) @ x.mean(0), p.mean(0) @ y.mean(0)
    both = (moment(q, p) * moment(x, y)).sum() - mean_exact * mean_coded
    exact = (moment(q, q) * moment(x, x)).sum() - mean_exact**2
    coded = (moment(p, p) * moment(y, y)).sum() - mean_coded**2
    if exact <= 0 or coded <= 0:
        return 0.0
    return float(both / math.sqrt(exact * coded))


def spearman(rho: float) -> float:
    """Rank correlation of a Gaussian pair with correlation rho: 6/pi asin(rho / 2)."""
    return 6 / math.pi * math.asin(rho / 2)


def kendall(rho: float) -> float:
    """Kendall's tau of a Gaussian pair with correlation rho: 2/pi asin(rho)."""
    return 2 / math.pi * math.asin(rho)


def local_fidelity(exact: npt.ArrayLike, estimated: npt.ArrayLike) -> float:
    """Mean over queries of the correlation of estimates with distances among near rows (rho_loc).

    Fidelity over all pairs does not order codecs by recall; this does.

    Parameters
    ----------
    exact, estimated : ndarray, shape (n_queries, m)
        Distances of each query's m nearest rows (100, say), and their estimates.

    Returns
    -------
    float
        Queries whose distances or estimates are all equal are left out; 0 if all are.

    Raises
    ------
    ValueError
        If shapes differ.
    """
    a = as_vectors(exact, name="exact", dtype=np.float64)
    b = as_vectors(estimated, name="estimated", dim=a.shape[1], dtype=np.float64)
    if len(a) != len(b):
        raise ValueError(f"estimated: expected {len(a)} rows, not {len(b)}")
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    some = scale > 0
    return float(((a * b).sum(axis=1)[some] / scale[some]).mean()) if some.any() else 0.0
