"""Codecs and the transformer among scikit-learn's estimators."""

from __future__ import annotations

import numpy as np
import pytest

from bqcore import make_codec
from bqcore.registry import CODECS, codec_class
from bqcore.transformer import Quantized

pytest.importorskip("sklearn", reason="needs bqcore[train]")

from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

RNG = np.random.default_rng(0)
Y = RNG.integers(2, size=400)
X = (RNG.normal(size=(400, 16)) + 0.8 * Y[:, np.newaxis]).astype(np.float32)


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_is_cloned_and_ends_a_pipeline(name: str) -> None:
    codec = codec_class(name)()
    copy = clone(codec)
    assert copy is not codec
    assert copy.get_params() == codec.get_params()
    if name in ("pq", "vq", "saq", "learned_binary"):
        return  # trained elsewhere; seconds each
    pipeline = make_pipeline(StandardScaler(), codec).fit(X)
    assert pipeline[-1].dim_ == 16


def test_the_transformer_gives_what_codes_stand_for() -> None:
    step = Quantized("rabitq(bits=2)")
    with pytest.raises(RuntimeError, match="call fit first"):
        step.transform(X)
    codec = make_codec("rabitq(bits=2)", metric="l2", random_state=0).fit(X)
    assert np.array_equal(step.fit_transform(X), codec.decode(codec.encode(X)))
    errors = [
        np.square(Quantized(f"rabitq(bits={bits})").fit_transform(X) - X).mean() for bits in (1, 2, 4, 8)
    ]
    assert errors == sorted(errors, reverse=True)


def test_the_transformer_is_cloned_searched_and_piped() -> None:
    pipeline = Pipeline([("codes", Quantized()), ("model", LogisticRegression())])
    assert clone(pipeline).get_params()["codes__spec"] == "rabitq(bits=4)"
    search = GridSearchCV(pipeline, {"codes__spec": ["rabitq(bits=1)", "rabitq(bits=4)"]}, cv=3).fit(X, Y)
    scores = search.cv_results_["mean_test_score"]
    assert scores[1] >= scores[0] > 0.7
    with pytest.raises(ValueError, match="expected a parameter of spec, metric, random_state, not 'bits'"):
        Quantized().set_params(bits=2)
