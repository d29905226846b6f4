"""The advisor's ranking and predictions against what is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bqcore import make_codec, search
from bqcore.advisor import advise, candidate_specs
from bqcore.codec_sample import Sample
from bqcore.datasets import clustered, read
from bqcore.evaluation import exact_search, recall

DATA = Path(__file__).parents[2] / "shared" / "data"
SPECS = ["rabitq(bits=1)", "rabitq(bits=1, rotation=none)", "rabitq(bits=2)", "scalar(format=int8)"]


def measured_recall(spec, base, queries, metric, k=10):
    codec = make_codec(spec, metric=metric).fit(base)
    truth, _ = exact_search(base, queries, k, metric)
    return recall(search(codec, codec.encode(base), queries, k).ids, truth, k)


def two_valued(n, rng):
    """Clusters of +-1 with a fifth of the signs flipped: a rotation destroys what signs hold."""
    centres = rng.choice([-1.0, 1.0], size=(40, 96))
    X = centres[rng.integers(40, size=n)]
    X[rng.random(X.shape) < 0.2] *= -1
    return (X + 0.05 * rng.normal(size=X.shape)).astype(np.float32)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_predictions_are_what_is_measured_where_all_rows_and_queries_are_seen(metric):
    data = clustered(3000, 48, n_queries=150, random_state=1)
    advice = advise(data.base, data.queries, metric, bytes_per_vector=1000, codecs=SPECS)
    assert (advice.n_queries, advice.n_rows) == (150, 3000)
    assert {option.codec for option in advice.options} == set(SPECS)
    for option in advice.options:
        assert option.recall == pytest.approx(
            measured_recall(option.codec, data.base, data.queries, metric), abs=1e-3
        )
    recalls = [option.recall for option in advice.options]
    assert recalls == sorted(recalls, reverse=True)


@pytest.mark.parametrize(
    "name", ["D_digits", "B_glove25", pytest.param("B_gnews300", marks=pytest.mark.long)]
)
def test_predictions_from_rows_as_queries_hold_for_real_queries(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not beside the checkout")
    data = read(DATA / name)
    advice = advise(data.base, None, data.metric, bytes_per_vector=10**6, codecs=SPECS[:2])
    for option in advice.options:
        found = measured_recall(option.codec, data.base, data.queries, data.metric)
        assert option.recall == pytest.approx(found, abs=0.04)


def test_oversampling_is_what_rescoring_needs():
    data = clustered(3000, 48, n_queries=200, random_state=2)
    (option,) = advise(data.base, data.queries, bytes_per_vector=100, codecs=SPECS[:1]).options
    codec = make_codec(option.codec).fit(data.base)
    codes = codec.encode(data.base)
    truth, _ = exact_search(data.base, data.queries, 10, "l2")
    enough = search(codec, codes, data.queries, 10, X=data.base, oversampling=option.oversampling)
    assert recall(enough.ids, truth, 10) >= 0.99
    short = search(
        codec, codes, data.queries, 10, X=data.base, oversampling=max(1, option.oversampling * 0.6)
    )
    assert recall(short.ids, truth, 10) < 0.99


def test_axes_are_kept_on_two_valued_data_and_rotated_on_unequal_ones():
    rng = np.random.default_rng(0)
    X = two_valued(3000, rng)
    advice = advise(X[:2900], X[2900:], bytes_per_vector=20, codecs=SPECS[:2])
    assert advice.diagnosis.rotation == "keep"
    assert advice.options[0].codec == "rabitq(bits=1, rotation=none)"
    assert "axes are kept" in advice.options[0].reason
    assert advice.options[0].recall > advice.options[1].recall + 0.05
    Y = rng.normal(size=(3000, 96)).astype(np.float32) * np.repeat([4, 0.5], [12, 84]).astype(np.float32)
    advice = advise(Y[:2900], Y[2900:], bytes_per_vector=20, codecs=SPECS[:2])
    assert advice.options[0].codec == "rabitq(bits=1)"


def test_without_queries_a_rotation_wins_ties():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 64)).astype(np.float32)
    advice = advise(X, bytes_per_vector=16, codecs=SPECS[1::-1])
    kept, rotated = sorted(advice.options, key=lambda option: option.codec, reverse=True)
    assert abs(kept.recall - rotated.recall) < 0.015
    assert advice.options[0].codec == "rabitq(bits=1)"
    assert advise(two_valued(3000, rng), bytes_per_vector=20, codecs=SPECS[:2]).options[0].codec == SPECS[1]


def test_every_kind_of_codec_is_proposed_where_it_can_win():
    names = {
        spec.split("(")[0]
        for nbytes in (20, 56, 104, 200, 800)
        for spec in candidate_specs(384, 9000, nbytes)
    }
    assert names >= {"rabitq", "saq", "learned_binary", "sign_magnitude", "turbo", "scalar", "osq", "pq"}
    assert "median_binary(rotation=none)" in candidate_specs(64, 9000, 8)


def test_budgets_and_targets_are_kept():
    data = clustered(1000, 64, n_queries=60, random_state=3)
    within = advise(data.base, data.queries, bytes_per_vector=17).options
    assert within
    assert all(option.bytes_per_vector <= 17 for option in within)
    reaching = advise(data.base, data.queries, target_recall=0.7).options
    assert all(option.recall >= 0.7 for option in reaching)
    sizes = [option.bytes_per_vector for option in reaching]
    assert sizes == sorted(sizes)
    for spec in candidate_specs(64, 1000, 24):
        codec = make_codec(spec).fit(data.base)
        assert codec.bytes_per_vector <= 24, spec


def test_of_the_forms_of_factors_the_better_one_is_measured(monkeypatch):
    """Which form that is differs between sets; it is screened with one list."""
    monkeypatch.setattr("bqcore.advisor.CODECS", ("saq",))
    data = clustered(4200, 32, n_queries=40, random_state=4)
    limit = 12
    specs = candidate_specs(32, 4200, limit)
    forms = [spec for spec in specs if spec.startswith("saq")]
    assert len(forms) == 6
    assert all(make_codec(spec).fit(data.base).bytes_per_vector == limit for spec in forms)
    screen, seen = Sample.screen, {}

    def noted(self, spec):
        seen[spec] = screen(self, spec)
        return seen[spec]

    monkeypatch.setattr(Sample, "screen", noted)
    options = advise(data.base, data.queries, bytes_per_vector=limit).options
    single = [spec for spec in forms if "centroids=1," in spec]
    better = max((s for s in single if s in seen), key=lambda spec: seen[spec].local_fidelity)
    form = better[better.index("factors=") :]
    several = [spec for spec in forms if spec in seen and spec not in single]
    assert len(several) == 1
    assert several[0].endswith(form)
    taken = [option.codec for option in options if option.codec.startswith("saq")]
    assert taken
    assert all(spec.endswith(form) for spec in taken)


def test_zero_rows_and_zero_queries_are_left_out_under_cosine():
    data = clustered(500, 24, n_queries=20, random_state=4)
    X, Q = data.base.copy(), data.queries.copy()
    X[7] = Q[3] = 0
    advice = advise(X, Q, "cosine", bytes_per_vector=100, codecs=SPECS[:1])
    assert (advice.n_rows, advice.n_queries, advice.diagnosis.n_zero) == (499, 19, 1)


def test_beyond_100000_rows_some_others_stand_for_all(monkeypatch):
    data = clustered(6000, 32, n_queries=80, random_state=5)
    whole = Sample(data.base, data.queries, "l2", 10, 0).settle("rabitq(bits=2)")
    monkeypatch.setattr("bqcore.codec_sample.ALL_ROWS", 1000)
    monkeypatch.setattr("bqcore.codec_sample._NEAREST", 100)
    monkeypatch.setattr("bqcore.codec_sample._OTHER_ROWS", 500)
    for queries in (data.queries, None):
        part = Sample(data.base, queries, "l2", 10, 0)
        assert len(part.rows) < 6000 or queries is None
        if queries is not None:
            assert part.settle("rabitq(bits=2)") == pytest.approx(whole, abs=0.03, rel=0.1)


def test_few_rows_of_many_coordinates_are_no_smaller_a_sample(monkeypatch):
    data = clustered(400, 32, n_queries=40, random_state=5)
    whole = Sample(data.base, data.queries, "l2", 10, 0).settle("rabitq(bits=2)")
    monkeypatch.setattr("bqcore.codec_sample.ALL_COORDINATES", 1000)
    part = Sample(data.base, data.queries, "l2", 10, 0)
    assert part.rows.tolist() == list(range(400))
    assert part.settle("rabitq(bits=2)") == pytest.approx(whole, abs=0.03, rel=0.1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bytes_per_vector": 9, "target_recall": 0.5}, "expected one of bytes_per_vector and target_recall"),
        ({"bytes_per_vector": 0}, "bytes_per_vector: expected at least 1, not 0"),
        ({"bytes_per_vector": 3, "codecs": SPECS[:1]}, "no codec stores 16 dimensions in 3 bytes"),
        ({"target_recall": 1.5}, r"target_recall: expected a number in \(0, 1\], not 1.5"),
        ({"target_recall": 1.0, "codecs": SPECS[:1]}, "target_recall: expected at most 0.* not 1.0"),
        ({"bytes_per_vector": 9, "k": 200}, "k: expected 1 to 199, not 200"),
        ({"bytes_per_vector": 9, "queries": np.ones((2, 5))}, "queries: expected 16 dimensions, not 5"),
    ],
)
def test_bad_arguments_are_refused(options, text):
    X = np.random.default_rng(0).normal(size=(200, 16))
    with pytest.raises(ValueError, match=text):
        advise(X, **options)
