"""Models of SQL mode, jsonb in a database, as `bqcore.RaBitQ` and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from bqcore import RaBitQ, _kernels
from bqcore._kernels import Float32Array

FORMAT, FORMAT_VERSION = "bqcore model", 1
_MAX_SEED = 2**63


def model_id(metric: str, rotation: str, seed: int, n_trained: int, centroid: Float32Array) -> str:
    """Hash of a model's contents, as ``bqcore.model_id`` computes it."""
    text = f"{FORMAT} {FORMAT_VERSION} rabitq 1 {metric} {rotation} {seed} {n_trained}"
    return hashlib.sha256(text.encode() + centroid.astype(">f4").tobytes()).hexdigest()[:16]


def to_json(model: RaBitQ) -> str:
    """Write a fitted model as what ``bqcore.add`` takes.

    Raises
    ------
    ValueError
        If it is not fitted, or not of 1 bit, one centroid, rotation hadamard or none and a seed below 2**63.
    """
    model.to_bytes()
    if model.bits_ != 1:
        raise ValueError(f"expected a model of 1 bit for SQL mode, not of {model.bits_}")
    if model.random_state_ >= _MAX_SEED:
        raise ValueError(f"expected a seed below 2**63 for SQL mode, not {model.random_state_}")
    metric, rotation, seed = model.metric_, model.rotation_, model.random_state_
    return json.dumps(
        {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "codec": "rabitq",
            "bits": 1,
            "dim": model.dim_,
            "metric": metric,
            "rotation": rotation,
            "seed": seed,
            "n_trained": model.n_trained_,
            # the shortest digits that give the same float32 again
            "centroid": [float(str(x)) for x in model.centroid_],
            "id": model_id(metric, rotation, seed, model.n_trained_, model.centroid_),
        }
    )


def from_json(document: str | Mapping[str, Any]) -> RaBitQ:
    """Restore the model that ``bqcore.train`` or ``bqcore.model`` returned.

    Raises
    ------
    ValueError
        If it is no such model, of another version, or damaged.
    """
    found = json.loads(document) if isinstance(document, str) else document
    if not isinstance(found, Mapping) or found.get("format") != FORMAT:
        raise ValueError(f"expected a model of bqcore.train, not {str(found)[:40]!r}")
    if found.get("version") != FORMAT_VERSION:
        raise ValueError(f"expected a model of version {FORMAT_VERSION}, not {found.get('version')!r}")
    centroid = np.array(found["centroid"], dtype=np.float32)
    named = {name: found[name] for name in ("metric", "rotation", "seed", "n_trained")}
    expected = model_id(**named, centroid=centroid)
    if found.get("id") != expected or found.get("dim") != len(centroid):
        raise ValueError(
            f"the model is damaged: its id is {found.get('id')!r}, that of its contents {expected!r}"
        )
    kernel_model = _kernels.Model(
        bits=1,
        metric=named["metric"],
        rotation=named["rotation"],
        seed=named["seed"],
        centroid=centroid,
        n_trained=named["n_trained"],
    )
    return RaBitQ.from_bytes(kernel_model.to_bytes())
