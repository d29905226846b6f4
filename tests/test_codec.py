"""What every codec must do, whatever it is: run over the registry with several settings of each."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import bqcore
from bqcore import Codes, make_codec
from bqcore.evaluation import exact_distances
from bqcore.registry import CODECS, codec_class, parse_spec

#: Settings that exercise each codec; every codec has at least one.
SPECS = [
    "rabitq(bits=1)",
    "rabitq(bits=4, rotation=none)",
    *("learned_binary", "learned_binary(bits=1.7, centroids=4)"),
    *("sign_magnitude", "sign_magnitude(centroids=4, rotation=hadamard, query=int8)"),
    *("turbo(bits=1)", "turbo(bits=3, correction=unbiased)", "turbo(bits=4, rotation=none, centroids=4)"),
    *("median_binary", "median_binary(score=its, rotation=hadamard)"),
    "rabitq(bits=3)",
    "rabitq(bits=2, centroids=16)",
    "rabitq(bits=5, rotation=dense, centroids=300)",
    "rabitq(bits=8, rotation=none, centroids=4)",
    "scalar",
    "scalar(format=int8)",
    "scalar(format=int8, calibration=overall)",
    "scalar(format=float8)",
    "scalar(format=float8, dims=24)",
    "osq",
    "osq(bits=2, interval=lucene)",
    "osq(bits=4, rotation=none)",
    "osq(bits=7)",
    "bbq",
    "bbq(rotation=hadamard)",
    "saq(bits=1)",
    "saq(bits=1, factors=pair)",
    "saq(bits=2.5, centroids=4, factors=float32)",
    "saq(bits=1, centroids=300, segment=16, factors=bfloat16)",
    "pq(bits=1)",
    "pq(bits=1.5, code_bits=4, threshold=0.1, rotation=none, lut=uint8)",
    "pq(bits=1, code_bits=4, centroids=7)",
    "vq(codewords=300)",
]
METRICS = ["l2", "ip", "cosine"]
#: Codecs whose estimates are scores between the codes of both sides, not distances in the metric's unit: they
#: order vectors query by query, and a float query does not answer as its code does.
SCORES = {"median_binary"}


def vectors(n=400, dim=40, seed=3):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, dim)) * 2
    X = centres[rng.integers(5, size=n)] + rng.normal(size=(n, dim)) * np.linspace(2, 0.2, dim) + 0.5
    X[:, dim // 2] = 1.25  # a dead coordinate
    return X.astype(np.float32)


def test_every_codec_is_exercised():
    assert {parse_spec(spec)[0] for spec in SPECS} == set(CODECS)
    assert all(codec_class(name).idea for name in CODECS)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spec", SPECS)
def test_estimates_follow_distances(spec, metric):
    X, Q = vectors(), vectors(20, seed=4)
    codec = make_codec(spec, metric=metric).fit(X)
    found = codec.estimate(codec.encode(X), Q)
    truth = exact_distances(X, Q, np.tile(np.arange(len(X)), (len(Q), 1)), metric)
    assert found.shape == truth.shape
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    if codec.codec in SCORES:
        ranks = [np.argsort(np.argsort(a, axis=1), axis=1) for a in (found, truth)]
        assert np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]) > 0.4
    else:
        assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.85


@pytest.mark.parametrize("spec", SPECS)
def test_decoded_vectors_are_near_and_answer_as_the_codes_do(spec):
    X, Q = vectors(), vectors(10, seed=4)
    codec = make_codec(spec, metric="ip").fit(X)
    codes = codec.encode(X)
    decoded = codec.decode(codes)
    assert decoded.shape == X.shape
    assert decoded.dtype == np.float32
    spread = np.square(X - X.mean(0)).sum()
    assert np.square(decoded - X).sum() < 0.75 * spread
    if codec.codec in SCORES:
        return
    found, direct = codec.estimate(codes, Q), -Q @ decoded.T
    least = 0.97 if spec.startswith("bbq") else 0.98  # bbq rounds queries to 4 bits
    assert np.corrcoef(found.ravel(), direct.ravel())[0, 1] > least


@pytest.mark.parametrize("spec", SPECS)
def test_codes_are_deterministic_and_independent_of_their_neighbours(spec):
    X = vectors()
    one, two = (make_codec(spec, random_state=5).fit(X) for _ in range(2))
    assert one.model_id == two.model_id
    codes = one.encode(X)
    assert codes.packed.tobytes() == two.encode(X).packed.tobytes()
    parts = [one.encode(X[:7]), one.encode(X[7:8]), one.encode(X[8:])]
    assert b"".join(part.packed.tobytes() for part in parts) == codes.packed.tobytes()
    assert b"".join(part.factors.tobytes() for part in parts) == codes.factors.tobytes()


@pytest.mark.parametrize("spec", SPECS)
def test_bytes_per_vector_is_what_is_stored(spec):
    X = vectors()
    codec = make_codec(spec).fit(X)
    codes = codec.encode(X)
    assert codec.bytes_per_vector == codes.bytes_per_vector == codes.nbytes / len(X)
    assert codes.packed.nbytes + codes.factors.nbytes == codes.nbytes


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spec", SPECS)
def test_models_and_codes_survive_files_and_pickles(tmp_path, spec, metric):
    X, Q = vectors(), vectors(5, seed=4)
    codec = make_codec(spec, metric=metric, random_state=9).fit(X)
    codes = codec.encode(X)
    expected = codec.estimate(codes, Q).tobytes()
    codec.save(tmp_path / "model")
    codes.save(tmp_path / "codes")
    read_codes = Codes.load(tmp_path / "codes")
    loaded = [read(tmp_path / "model") for read in (bqcore.load, type(codec).load)]
    for restored in (*loaded, pickle.loads(pickle.dumps(codec))):
        assert restored.model_id == codec.model_id
        assert restored.get_params() == codec.get_params()
        assert restored.encode(X).packed.tobytes() == codes.packed.tobytes()
        assert restored.estimate(read_codes, Q).tobytes() == expected


@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("spec", SPECS)
def test_damaged_and_foreign_models_are_refused_with_their_name(tmp_path, spec):
    codec = make_codec(spec).fit(vectors())
    path = tmp_path / "model"
    codec.save(path)
    data = path.read_bytes()
    for damaged in (b"", data[:100], data[: len(data) // 2], data[:-1], b"PK" + data, bytes(200)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model: "):
            bqcore.load(path)
    with pytest.raises(FileNotFoundError):
        bqcore.load(tmp_path / "nowhere")


@pytest.mark.parametrize("spec", SPECS)
def test_parameters_are_kept_as_given_and_clone(spec):
    codec = make_codec(spec)
    twin = type(codec)(**codec.get_params())
    assert twin.get_params() == codec.get_params()
    assert "_" not in {name[-1] for name in vars(codec)}  # nothing is fitted yet
    with pytest.raises(ValueError, match="is not fitted"):
        codec.encode(vectors())
    with pytest.raises(ValueError, match=r"expected one of .*, not 'colour'"):
        codec.set_params(colour=1)


@pytest.mark.parametrize("spec", SPECS)
def test_bad_input_is_refused(spec):
    X = vectors()
    codec = make_codec(spec, metric="cosine").fit(X)
    codes = codec.encode(X)
    for bad, text in [
        (np.empty((0, 40)), "at least 1 row, not 0"),
        (np.full((3, 40), np.nan), "expected finite values, not nan"),
        (np.zeros((3, 40)), "zero vector"),
    ]:
        with pytest.raises(ValueError, match=text):
            make_codec(spec, metric="cosine").fit(bad)
    with pytest.raises(ValueError, match="expected 40 dimensions, not 39"):
        codec.encode(X[:, :39])
    with pytest.raises(ValueError, match="expected 40 dimensions, not 39"):
        codec.estimate(codes, X[:, :39])
    with pytest.raises(ValueError, match="zero"):
        codec.encode(np.zeros((1, 40)))
    with pytest.raises(ValueError, match="of model"):
        make_codec(spec, metric="l2").fit(X).estimate(codes, X)
    assert len(codec.encode(np.empty((0, 40)))) == 0
    assert np.isfinite(codec.estimate(codes, np.zeros(40))).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dim", [1, 2, 7, 63, 65])
def test_small_and_odd_dims(spec, metric, dim):
    X = np.random.default_rng(dim).normal(size=(300, dim)).astype(np.float32)
    codec = make_codec(spec, metric=metric).fit(X)
    found = codec.estimate(codec.encode(X), X[:5])
    assert found.shape == (5, 300)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("spec", SPECS)
def test_one_vector_duplicates_and_a_zero_residual(spec):
    x = vectors()[:1]
    for X in (x, np.repeat(x, 50, axis=0)):
        codec = make_codec(spec).fit(X)
        found = codec.estimate(codec.encode(X), x)
        np.testing.assert_allclose(found, 0, atol=1e-3 * np.square(x).sum())


def test_specs_are_parsed():
    assert parse_spec("saq") == ("saq", [], {})
    assert parse_spec("saq(bits=1.5, rotation=none)") == ("saq", [], {"bits": 1.5, "rotation": "none"})
    assert parse_spec('faiss("OPQ48,PQ48x8", nprobe=3)') == ("faiss", ["OPQ48,PQ48x8"], {"nprobe": 3})
    for bad in ("", "saq(", "saq(bits=__import__('os').getcwd())", "a.b(1)", "1+1", "saq(**{'bits': 1})"):
        with pytest.raises(ValueError, match=r"expected a name or name\(key=value"):
            parse_spec(bad)


def test_unknown_codecs_and_parameters_are_refused():
    with pytest.raises(ValueError, match=r"codec: expected one of rabitq.*, not 'zip'"):
        make_codec("zip(bits=1)")
    with pytest.raises(ValueError, match=r"rabitq has bits, .*, not 'bit'"):
        make_codec("rabitq(bit=1)")
    with pytest.raises(ValueError, match="takes named parameters"):
        make_codec("rabitq(1)")
    assert make_codec("rabitq", bits=4).get_params()["bits"] == 4
    for given in ({"bit": 4}, {"metrics": "cosine"}, {"colour": 1}):
        with pytest.raises(ValueError, match=rf"rabitq has bits, metric, .*, not '{next(iter(given))}'"):
            make_codec("rabitq", **given)
    # what callers give to every codec
    assert "random_state" not in make_codec("scalar", random_state=1, metric="ip").get_params()
    assert codec_class("rabitq") is bqcore.RaBitQ
