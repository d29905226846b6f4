"""A step of a scikit-learn pipeline: vectors as their codes have them."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bqcore._validation import Float32Array
from bqcore.registry import make_codec

_PARAMETERS = ("spec", "metric", "random_state")


class Quantized:
    """Replace vectors by what their codes stand for, to see what quantization does to a model behind them.

    It keeps scikit-learn's conventions without depending on it: `clone`, `Pipeline` and `GridSearchCV` work.

    Parameters
    ----------
    spec : str, default "rabitq(bits=4)"
        Codec, as `bqcore.make_codec` takes it.
    metric : {"l2", "ip", "cosine"}, default "l2"
        Under cosine the result is unit vectors.
    random_state : int, default 0

    Attributes
    ----------
    codec_ : Codec
        Fitted.
    n_features_in_ : int
    """

    def __init__(self, spec: str = "rabitq(bits=4)", metric: str = "l2", random_state: int = 0) -> None:
        self.spec = spec
        self.metric = metric
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's parameters."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **params: Any) -> Self:
        """Set some of the constructor's parameters.

        Raises
        ------
        ValueError
            If there is no such parameter.
        """
        for name, value in params.items():
            if name not in _PARAMETERS:
                raise ValueError(f"expected a parameter of {', '.join(_PARAMETERS)}, not {name!r}")
            setattr(self, name, value)
        return self

    def fit(self, X: npt.ArrayLike, y: object = None) -> Self:
        """Train the codec on X, shape (n, dim); errors as `Codec.fit`."""
        self.codec_ = make_codec(self.spec, metric=self.metric, random_state=self.random_state).fit(X)
        self.n_features_in_ = self.codec_.dim_
        return self

    def transform(self, X: npt.ArrayLike) -> Float32Array:
        """Return what the codes of X stand for, ndarray of float32, shape (n, dim).

        Raises
        ------
        RuntimeError
            Before `fit`.
        TypeError, ValueError
            As `Codec.encode`.
        """
        if not hasattr(self, "codec_"):
            raise RuntimeError("expected a fitted transformer: call fit first")
        return np.asarray(self.codec_.decode(self.codec_.encode(X)), dtype=np.float32)

    def fit_transform(self, X: npt.ArrayLike, y: object = None) -> Float32Array:
        """Train on X and return what its codes stand for."""
        return self.fit(X, y).transform(X)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "codec_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="transformer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=["float32"]),
        )

    def __repr__(self) -> str:
        return f"Quantized({self.spec!r}, metric={self.metric!r}, random_state={self.random_state})"
