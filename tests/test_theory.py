"""Closed forms against simulations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bqcore import theory
from bqcore._validation import unit_rows
from bqcore.datasets import read

DATA = Path(__file__).parents[2] / "shared" / "data"
SETS = [
    "A_minilm_wordnet",
    "B_sgns200",
    "B_tok384",
    "B_gnews300",
    "B_glove25",
    "D_sift",
    "D_patch400",
    "D_digits",
]


def spectrum(kind, dim):
    return {
        "flat": np.ones(dim),
        "root": np.arange(1, dim + 1) ** -0.5,
        "steep": np.arange(1.0, dim + 1) ** -1,
    }[kind]


def sample(kind, dim, rotated, n=4000, n_queries=300):
    """Covariance, base and queries of a Gaussian."""
    rng = np.random.default_rng(dim)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0] if rotated else np.eye(dim)
    lam = spectrum(kind, dim)
    root = basis * np.sqrt(lam)
    return (
        (basis * lam) @ basis.T,
        rng.normal(size=(n, dim)) @ root.T,
        rng.normal(size=(n_queries, dim)) @ root.T,
    )


def correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("kind", ["flat", "root", "steep"])
@pytest.mark.parametrize("dim", [64, 256])
def test_sign_fidelities_match_simulations(dim, kind, rotated):
    covariance, X, Q = sample(kind, dim, rotated)
    exact = Q @ X.T
    assert (
        abs(theory.symmetric_sign_fidelity(covariance) - correlation(exact, np.sign(Q) @ np.sign(X).T))
        <= 0.013
    )
    assert abs(theory.asymmetric_sign_fidelity(covariance) - correlation(exact, Q @ np.sign(X).T)) <= 0.013


@pytest.mark.parametrize("kind", ["flat", "root", "steep"])
def test_weights_by_standard_deviation_restore_the_flat_fidelity_on_any_spectrum(kind):
    covariance, X, Q = sample(kind, 128, rotated=False)
    weights = np.sqrt(covariance.diagonal())
    found = theory.asymmetric_sign_fidelity(covariance, weights)
    assert found == pytest.approx(math.sqrt(2 / math.pi), abs=1e-7)
    assert abs(found - correlation(Q @ X.T, (Q * weights) @ np.sign(X).T)) <= 0.013


def test_sign_fidelities_on_uncorrelated_axes_are_the_known_ones():
    lam = spectrum("root", 100)
    kappa = lam.var() / lam.mean() ** 2
    covariance = np.diag(lam)
    assert theory.symmetric_sign_fidelity(covariance) == pytest.approx(2 / math.pi / math.sqrt(1 + kappa))
    expected = math.sqrt(2 / math.pi) * (lam**1.5).sum() / math.sqrt(lam.sum() * (lam**2).sum())
    assert theory.asymmetric_sign_fidelity(covariance) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["flat", "root", "steep"])
def test_magnitude_bit_fidelity_matches_simulations(kind):
    covariance, X, Q = sample(kind, 128, rotated=False)
    lam = covariance.diagonal()
    threshold = math.sqrt(2 / math.pi) * np.sqrt(lam).mean()

    def code(V):
        return np.sign(V) * (1 + (np.abs(V) > threshold))

    exact = Q @ X.T
    asymmetric = theory.magnitude_bit_fidelity(lam, symmetric=False)
    symmetric = theory.magnitude_bit_fidelity(lam, symmetric=True)
    assert abs(asymmetric - correlation(exact, Q @ code(X).T)) <= 0.013
    assert abs(symmetric - correlation(exact, code(Q) @ code(X).T)) <= 0.013
    if kind == "flat":
        assert asymmetric == pytest.approx(0.9138, abs=2e-4)


def test_uniform_distortions_are_those_of_max():
    expected = [1, 0.3634, 0.1188, 0.03744, 0.01154, 0.003495, 0.001040, 0.0003043, 0.00008769]
    assert [theory.uniform_distortion(b) for b in range(9)] == pytest.approx(expected, rel=2e-3)
    etas = [theory.eta(b) for b in range(1, 9)]
    assert etas == sorted(etas)
    assert etas[0] == pytest.approx(theory.ETA_SIGN, abs=1e-6)


@pytest.mark.parametrize(("kind", "margin"), [("flat", 0.009), ("root", 0.009), ("steep", 0.05)])
def test_law_of_rotated_quantizers(kind, margin):
    """Its error grows as the effective dimension falls: at "steep", .09 of the dimension."""
    covariance, X, Q = sample(kind, 256, rotated=True)
    share = np.trace(covariance) ** 2 / np.square(covariance).sum() / 256
    for symmetric, scores in ((False, Q @ np.sign(X).T), (True, np.sign(Q) @ np.sign(X).T)):
        found = theory.rotated_fidelity(theory.ETA_SIGN, share, symmetric=symmetric)
        assert abs(found - correlation(Q @ X.T, scores)) <= margin + 0.004


def test_allocated_fidelity_matches_a_simulation_and_knows_dropped_axes():
    lam = spectrum("steep", 32)
    bits = np.array([3] * 4 + [1] * 12 + [0] * 16)
    rng = np.random.default_rng(0)
    X, Q = (rng.normal(size=(n, 32)) * np.sqrt(lam) for n in (4000, 300))
    steps = {1: 1.596, 3: 0.586}  # Max 1960
    coded = np.zeros_like(X)
    for b, step in steps.items():
        at = bits == b
        z = X[:, at] / np.sqrt(lam[at])
        top = (1 << (b - 1)) - 0.5
        coded[:, at] = (np.clip(np.floor(z / step) + 0.5, -top, top) * step) * np.sqrt(lam[at])
    assert abs(theory.allocated_fidelity(lam, bits) - correlation(Q @ X.T, Q @ coded.T)) <= 0.013
    with pytest.raises(ValueError, match=r"bits: expected shape \(32,\), not \(31,\)"):
        theory.allocated_fidelity(lam, bits[1:])


def _centred(name):
    """Rows and queries of a shared set less the rows' mean."""
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not beside the checkout")
    data = read(DATA / name)
    base, queries = data.base[:12_000], data.queries
    if data.metric == "cosine":
        base, queries = unit_rows(base), unit_rows(queries)
    mean = base.mean(axis=0)
    return base - mean, queries - mean


@pytest.mark.parametrize("name", SETS)
def test_gaussian_forms_hold_under_the_covariance_of_real_data(name):
    covariance = np.cov(_centred(name)[0], rowvar=False, dtype=np.float64)
    lam, axes = np.linalg.eigh(covariance)
    root = axes * np.sqrt(lam.clip(0))
    rng = np.random.default_rng(0)
    X, Q = (rng.normal(size=(n, len(root))) @ root.T for n in (8000, 500))
    symmetric = theory.symmetric_sign_fidelity(covariance)
    assert abs(symmetric - correlation(Q @ X.T, np.sign(Q) @ np.sign(X).T)) <= 0.013
    assert abs(theory.asymmetric_sign_fidelity(covariance) - correlation(Q @ X.T, Q @ np.sign(X).T)) <= 0.013


@pytest.mark.parametrize("name", SETS)
def test_plug_in_fidelity_holds_on_real_data(name):
    base, Q = _centred(name)
    X, Y = base[::2], base[1::2]
    found = theory.plug_in_fidelity(X, np.sign(X), Q)
    assert abs(found - correlation(Q @ Y.T, Q @ np.sign(Y).T)) <= 0.02
    both = theory.plug_in_fidelity(X, np.sign(X), Q, np.sign(Q))
    assert abs(both - correlation(Q @ Y.T, np.sign(Q) @ np.sign(Y).T)) <= 0.02


def test_plug_in_shows_what_gaussian_forms_miss_on_two_valued_data():
    rng = np.random.default_rng(0)
    X, Q = (rng.choice([-1.0, 1.0], size=(n, 64)) + 0.1 * rng.normal(size=(n, 64)) for n in (4000, 200))
    assert theory.plug_in_fidelity(X, np.sign(X), Q) > 0.98
    assert theory.asymmetric_sign_fidelity(np.cov(X.T)) < 0.81


def test_rank_correlations_follow_pearson():
    rng = np.random.default_rng(1)
    x = rng.normal(size=2000)
    y = 0.8 * x + 0.6 * rng.normal(size=2000)
    rank = [np.argsort(np.argsort(v)) for v in (x, y)]
    assert abs(theory.spearman(0.8) - correlation(*rank)) < 0.03
    concordant = np.sign((x[:, None] - x) * (y[:, None] - y)).sum() / (2000 * 1999)
    assert abs(theory.kendall(0.8) - concordant) < 0.03


def test_local_fidelity_is_one_for_the_truth_and_falls_with_noise():
    rng = np.random.default_rng(2)
    exact = np.sort(rng.random((50, 100)), axis=1)
    noisy = [theory.local_fidelity(exact, exact + s * rng.normal(size=exact.shape)) for s in (0, 0.1, 0.5, 2)]
    assert noisy[0] == pytest.approx(1)
    assert noisy == sorted(noisy, reverse=True)
    assert theory.local_fidelity(np.ones((3, 5)), np.ones((3, 5))) == 0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: theory.symmetric_sign_fidelity(np.ones((2, 3))),
            r"S: expected a square matrix, not .*\(2, 3\)",
        ),
        (lambda: theory.asymmetric_sign_fidelity(np.zeros((2, 2))), "S: expected a positive variance"),
        (
            lambda: theory.asymmetric_sign_fidelity(np.eye(3), np.ones(2)),
            r"weights: expected shape \(3,\), not \(2,\)",
        ),
        (lambda: theory.rotated_fidelity(1.2, 0.5), r"eta: expected a number in \(0, 1\], not 1.2"),
        (lambda: theory.rotated_fidelity(0.8, 0), r"effective_share: .* not 0"),
        (lambda: theory.uniform_distortion(9), "bits: expected 0 to 8, not 9"),
        (
            lambda: theory.plug_in_fidelity(np.ones((3, 2)), np.ones((2, 2)), np.ones((1, 2))),
            "expected 3 rows, not 2",
        ),
    ],
)
def test_bad_arguments_are_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_dead_coordinates_change_nothing():
    covariance = np.diag([1.0, 0.0, 2.0, 0.5])
    live = np.diag([1.0, 2.0, 0.5])
    assert theory.symmetric_sign_fidelity(covariance) == theory.symmetric_sign_fidelity(live)
    weighted = theory.asymmetric_sign_fidelity(covariance, [1, 9, 2, 3])
    assert weighted == theory.asymmetric_sign_fidelity(live, [1, 2, 3])
