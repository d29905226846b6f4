"""Write golden vectors with the scalar kernels: ``python tests/golden/make.py [--ip-queries]``.

The file carries the format version in its name and is never overwritten. Codes in a database were made by
the version that wrote them, so a change of any byte here is a change of format: raise BQK_MODEL_VERSION, keep
the old file under test, and let this script write the next one.

What queries make of codes is stored nowhere but in values of the type bqquery, which have a version of their
own. With 0.3.0 estimates under ip became linear in the query (docs/notation.md): --ip-queries wrote these
answers anew, and refuses to touch codes, factors or another metric.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from bqcore import RaBitQ, _kernels
from bqcore._kernels import Model

FOLDER = Path(__file__).parent
SEED = 0x9E3779B97F4A7C15
#: One code byte, odd dims, a whole block, a block and a tail, and the dims of small text models.
DIMS = (1, 3, 25, 64, 127, 384)
CASES = [
    *[
        (dim, bits, metric, "hadamard")
        for dim in DIMS[:-1]
        for bits in (1, 2, 4, 8)
        for metric in ("l2", "ip", "cosine")
    ],
    *[(25, bits, "l2", "none") for bits in (1, 2, 4, 8)],
    *[(384, 1, "l2", "hadamard"), (384, 4, "ip", "hadamard"), (384, 1, "cosine", "hadamard")],
    *[(384, bits, "cosine", "hadamard") for bits in (2, 4, 8)],
]


def inputs(dim):
    """Vectors, queries and a centroid of dim, with the awkward ones among them."""
    rng = np.random.default_rng(dim)
    mean = rng.standard_normal(dim)
    X = (rng.standard_normal((5, dim)) + mean).astype(np.float32)
    X[3] *= np.float32(1e-3)
    X[4] *= np.float32(1e6)
    Q = (rng.standard_normal((2, dim)) + mean).astype(np.float32)
    Q[1, dim // 2] = 30
    centroid = (mean / (1 + np.linalg.norm(mean))).astype(np.float32)
    X[2] = centroid  # a residual of zero, but for cosine
    return X, Q, centroid


def answers(model, X, Q):
    """Encode X and answer Q: what a database stores, and what it makes of it."""
    codes, factors = model.encode(X)
    found = {"codes": codes, "factors": factors}
    if model.metric == "l2":
        found["rotated"] = model.rotate(X[:1])
    for i, q in enumerate(Q):
        query = model.prepare(q)
        found[f"query{i}.terms"] = np.frombuffer(_kernels.ffi.buffer(query.struct, 16), dtype=np.uint8)
        found[f"query{i}.z"] = query.z
        found[f"query{i}.dot"] = model.dot(codes, query.z)
        found[f"query{i}.estimate"] = model.estimate(query, codes, factors)
        found[f"query{i}.error"] = model.error(query, codes, factors)
    return {name: array.tobytes() for name, array in found.items()}


def text(data):
    """Bytes as JSON holds them."""
    return base64.b64encode(data).decode()


def renew_ip_queries(target):
    """Write the answers to queries under ip anew; nothing else may differ."""
    golden = json.loads(target.read_text())
    for case in golden["cases"]:
        given = golden["inputs"][str(case["dim"])]
        X, Q = (
            np.frombuffer(base64.b64decode(given[name]), dtype="<f4").reshape(-1, case["dim"]).copy()
            for name in ("X", "Q")
        )
        found = answers(Model.from_bytes(base64.b64decode(case["model"])), X, Q)
        found = {name: text(data) for name, data in found.items()}
        changed = {name for name in found if found[name] != case["answers"][name]}
        if changed and (case["metric"] != "ip" or not all(name.startswith("query") for name in changed)):
            sys.exit(f"expected {case['metric']} at {case['dim']} dimensions unchanged, not new {changed}")
        case["answers"] = found
    target.write_text(json.dumps(golden, indent=1) + "\n")


def main():
    """Write the file of the current format version."""
    version = _kernels.lib.BQK_MODEL_VERSION
    target = FOLDER / f"rabitq_v{version}.json"
    _kernels.select_isa("scalar")
    if sys.argv[1:] == ["--ip-queries"]:
        renew_ip_queries(target)
        return
    if target.exists():
        sys.exit(f"{target} exists: golden vectors change with the format version alone")
    golden = {"version": version, "inputs": {}, "cases": []}
    for dim in DIMS:
        X, Q, _ = inputs(dim)
        golden["inputs"][str(dim)] = {"X": text(X.tobytes()), "Q": text(Q.tobytes())}
    for dim, bits, metric, rotation in CASES:
        X, Q, centroid = inputs(dim)
        model = Model(
            bits=bits, metric=metric, rotation=rotation, seed=SEED, centroid=centroid, n_trained=12345
        )
        case = {"dim": dim, "bits": bits, "metric": metric, "rotation": rotation, "seed": SEED}
        case["model"] = text(model.to_bytes())
        case["answers"] = {name: text(data) for name, data in answers(model, X, Q).items()}
        golden["cases"].append(case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes.npz"
        X, _, centroid = inputs(25)
        model = Model(bits=4, metric="l2", rotation="hadamard", seed=SEED, centroid=centroid, n_trained=12345)
        RaBitQ.from_bytes(model.to_bytes()).encode(X).save(path)
        golden["codes_file"] = {"dim": 25, "bits": 4, "metric": "l2", "npz": text(path.read_bytes())}
    target.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
