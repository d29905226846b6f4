"""Files of vectors in every format that is read, for tests that try them all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

FloatArray = np.ndarray

#: Formats whose values are whole numbers from 0 to 255.
BYTES = ("bvecs", "u8bin")


def write_npy(path: Path, X: FloatArray) -> Path:
    np.save(path.with_suffix(".npy"), X)
    return path.with_suffix(".npy")


def write_npz(path: Path, X: FloatArray) -> Path:
    np.savez(path.with_suffix(".npz"), emb=X, labels=np.arange(len(X)))
    return path.with_suffix(".npz")


def write_fvecs(path: Path, X: FloatArray) -> Path:
    return _vecs(path.with_suffix(".fvecs"), X.astype("<f4"))


def write_bvecs(path: Path, X: FloatArray) -> Path:
    return _vecs(path.with_suffix(".bvecs"), X.astype("u1"))


def _vecs(path: Path, X: np.ndarray) -> Path:
    with path.open("wb") as file:
        for x in X:
            file.write(np.array([X.shape[1]], dtype="<i4").tobytes() + x.tobytes())
    return path


def write_fbin(path: Path, X: FloatArray) -> Path:
    return _bin(path.with_suffix(".fbin"), X.astype("<f4"))


def write_u8bin(path: Path, X: FloatArray) -> Path:
    return _bin(path.with_suffix(".u8bin"), X.astype("u1"))


def _bin(path: Path, X: np.ndarray) -> Path:
    path.write_bytes(np.array(X.shape, dtype="<u4").tobytes() + X.tobytes())
    return path


def write_hdf5(path: Path, X: FloatArray) -> Path:
    import h5py

    with h5py.File(path.with_suffix(".hdf5"), "w") as file:
        file["train"] = X
        file.attrs["distance"] = "angular"
    return path.with_suffix(".hdf5")


def write_folder(path: Path, X: FloatArray) -> Path:
    path.mkdir()
    np.save(path / "base.npy", X[:-20])
    np.save(path / "query.npy", X[-20:])
    (path / "meta.json").write_text(json.dumps({"metric": "ip"}))
    return path


def write_parquet(path: Path, X: FloatArray, **others: object) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    v = pa.array(list(X.astype(np.float32)), type=pa.list_(pa.float32()))
    pq.write_table(pa.table({"title": ["a"] * len(X), "v": v, **others}), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def write_dimensions(path: Path, X: FloatArray) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {f"e{i}": X[:, i] for i in range(X.shape[1])}
    pq.write_table(pa.table({"title": ["a"] * len(X), **columns}), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def write_parts(path: Path, X: FloatArray) -> Path:
    path.mkdir()
    for i, part in enumerate(np.array_split(X, 3)):
        write_parquet(path / f"part-{i}", part)
    (path / "_SUCCESS").touch()
    return path


#: Writers by format; the metric that a file says, or that its format stands for.
WRITERS: dict[str, Callable[[Path, FloatArray], Path]] = {
    "npy": write_npy,
    "npz": write_npz,
    "fvecs": write_fvecs,
    "bvecs": write_bvecs,
    "fbin": write_fbin,
    "u8bin": write_u8bin,
    "hdf5": write_hdf5,
    "folder": write_folder,
    "parquet": write_parquet,
    "dimensions": write_dimensions,
    "parts": write_parts,
}
STORED_METRICS = {"fvecs": "l2", "bvecs": "l2", "hdf5": "cosine", "folder": "ip"}
