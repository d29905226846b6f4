from __future__ import annotations

import builtins
import logging
from typing import Any

import numpy as np
import pytest

from bqcore.embedding import LsaEmbedder, words

TOPICS = {
    "file": "open read write close file path line buffer mode encoding",
    "net": "socket connect listen address port host packet protocol timeout server",
    "math": "matrix vector eigenvalue inverse product norm solve linear equation sum",
}


def _texts(n: int = 90) -> list[str]:
    generator = np.random.default_rng(0)
    vocabularies = [vocabulary.split() for vocabulary in TOPICS.values()]
    return [" ".join(generator.choice(vocabularies[i % 3], 6)) for i in range(n)]


@pytest.fixture(scope="module")
def embedder() -> LsaEmbedder:
    pytest.importorskip("sklearn")
    embedder = LsaEmbedder(dim=8)
    embedder.fit_transform(_texts())
    return embedder


def test_rows_are_unit_float32() -> None:
    pytest.importorskip("sklearn")
    X = LsaEmbedder(dim=8).fit_transform(_texts())
    assert X.shape == (90, 8)
    assert X.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, atol=1e-5)


def test_same_seed_gives_same_vectors(embedder: LsaEmbedder) -> None:
    again = LsaEmbedder(dim=8)
    again.fit_transform(_texts())
    np.testing.assert_array_equal(again.transform(_texts(5)), embedder.transform(_texts(5)))


def test_texts_of_one_topic_are_closest(embedder: LsaEmbedder) -> None:
    X = embedder.transform(_texts(30))
    question = embedder.transform(["connect to a host through a socket"])[0]
    assert np.argmax(X @ question) % 3 == 1


def test_unknown_words_give_a_zero_row_and_a_warning(
    embedder: LsaEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="bqcore.embedding"):
        X = embedder.transform(["read a file", "zyzzyva"])
    assert X[0].any()
    assert not X[1].any()
    assert "1 of 2 texts" in caplog.text


def test_identifiers_are_split_into_words() -> None:
    assert words("assertRaises of HTTPServer.create_connections") == [
        "assert",
        "raise",
        "http",
        "server",
        "create",
        "connection",
    ]


def test_errors_name_both_numbers() -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match="8 dimensions, not 3"):
        LsaEmbedder(dim=8).fit_transform(_texts(3))
    with pytest.raises(ValueError, match=r"8 dimensions, not \d"):
        LsaEmbedder(dim=8).fit_transform(["one word"] * 20)
    with pytest.raises(RuntimeError, match="fit_transform before transform"):
        LsaEmbedder(dim=8).transform(["text"])


def test_missing_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_sklearn(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_sklearn)
    with pytest.raises(ImportError, match=r"bqcore\[demo\]"):
        LsaEmbedder(dim=8).fit_transform(_texts())
