"""What the diagnosis says of data whose statistics are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bqcore.datasets import read
from bqcore.diagnosis import diagnose, gaussian_l1_ratio, rotation_rule

DATA = Path(__file__).parents[2] / "shared" / "data"


def test_statistics_of_a_known_gaussian():
    rng = np.random.default_rng(0)
    lam = np.repeat([4.0, 1.0], 16)
    X = rng.normal(size=(20_000, 32)) * np.sqrt(lam) + 2
    X[:, 5] = 3
    found = diagnose(X)
    live = np.delete(lam, 5)
    assert found.effective_dim == pytest.approx(live.sum() ** 2 / (live**2).sum(), rel=0.03)
    assert found.mean_share == pytest.approx((4 * 31 + 9) / (4 * 31 + 9 + live.sum()), rel=0.02)
    spread = np.append(live, 0)
    assert found.coordinate_cv == pytest.approx(spread.std() / spread.mean(), rel=0.03)
    assert (found.n_dead, found.n_zero, found.n_duplicate) == (1, 0, 0)
    assert found.rotation == "rotate"  # unequal variances


def test_duplicates_and_zero_rows_are_counted():
    X = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    X[500:600] = X[:100]
    X[900] = 0
    found = diagnose(X, "cosine")
    assert (found.n_zero, found.n_duplicate) == (1, 100)
    assert diagnose(np.ones((5, 3))).n_duplicate == 4
    assert diagnose(np.ones((1, 3))).n == 1
    with pytest.raises(ValueError, match="all 2 are zero vectors"):
        diagnose(np.zeros((2, 3)), "cosine")


@pytest.mark.parametrize("m", [3, 8])
def test_intrinsic_dimension_of_a_cube_in_384_dimensions(m):
    rng = np.random.default_rng(m)
    basis = np.linalg.qr(rng.normal(size=(384, m)))[0]
    found = diagnose(rng.random((8000, m)) @ basis.T)
    assert found.intrinsic_dim == pytest.approx(m, rel=0.15)


def test_rotation_rule_follows_the_axes():
    rng = np.random.default_rng(0)
    two_valued = rng.choice([-1.0, 1.0], size=(3000, 64)) + 0.2 * rng.normal(size=(3000, 64))
    assert diagnose(two_valued).rotation == "keep"
    assert diagnose(rng.normal(size=(3000, 64))).rotation == "neutral"
    assert diagnose(rng.normal(size=(3000, 64)) ** 3).rotation == "rotate"
    common = rng.normal(size=(3000, 1)) + 0.05 * rng.normal(size=(3000, 64))  # one direction moves all
    assert diagnose(common).rotation == "neutral"
    assert gaussian_l1_ratio(384) == pytest.approx(0.79840, abs=1e-5)
    assert rotation_rule(gaussian_l1_ratio(8), 8) == "neutral"


@pytest.mark.parametrize(
    "name", ["A_minilm_wordnet", "B_sgns200", "D_sift", "B_tok384", "D_patch400", "B_glove25"]
)
def test_statistics_agree_with_those_published_with_the_data(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not beside the checkout")
    data = read(DATA / name)
    stats = json.loads((DATA / name / "meta.json").read_text())["stats"]
    found = diagnose(data.base, data.metric)
    assert found.mean_norm == pytest.approx(stats["mean_norm"], rel=0.01)
    assert found.mean_share == pytest.approx(stats["mean_share"], abs=0.005)
    assert found.coordinate_cv == pytest.approx(stats["coord_var_cv"], abs=0.01)
    assert found.effective_dim == pytest.approx(stats["effective_dim_PR"], rel=0.03)
