"""Golden vectors: bytes that an earlier version wrote, reproduced by every instruction set.

tests/golden/rabitq_v<n>.json was written once, by the scalar kernels, and is never regenerated without a bump
of the format version: codes and models in databases outlive the code that made them. If a test here fails, it
is the change that is wrong, not the file. Answers to queries under ip, which no database holds as codes, were
renewed once (make.py).
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bqcore import Codes, RaBitQ, _kernels
from bqcore._kernels import Model

FOLDER = Path(__file__).parent / "golden"
sys.path.insert(0, str(FOLDER))
from make import answers  # noqa: E402

FILES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("rabitq_v*.json"))}
CASES = [
    pytest.param(file, case, id=f"{name}-{case['dim']}-{case['bits']}-{case['metric']}-{case['rotation']}")
    for name, file in FILES.items()
    for case in file["cases"]
]


def floats(file, dim, name):
    data = base64.b64decode(file["inputs"][str(dim)][name])
    return np.frombuffer(data, dtype="<f4").reshape(-1, dim).copy()


def test_the_current_format_version_has_golden_vectors():
    version = _kernels.lib.BQK_MODEL_VERSION
    assert [file["version"] for file in FILES.values()] == list(range(1, version + 1))
    assert len(FILES["rabitq_v1"]["cases"]) == 70


@pytest.mark.parametrize(("file", "case"), CASES)
def test_kernels_reproduce_golden_bytes(isa, file, case):
    model = Model.from_bytes(base64.b64decode(case["model"]))
    found = answers(model, floats(file, case["dim"], "X"), floats(file, case["dim"], "Q"))
    expected = {name: base64.b64decode(data) for name, data in case["answers"].items()}
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.parametrize(("file", "case"), CASES)
def test_golden_models_are_read_and_written_back(file, case):
    data = base64.b64decode(case["model"])
    model = Model.from_bytes(data)
    assert (model.dim, model.bits, model.metric) == (case["dim"], case["bits"], case["metric"])
    assert (model.rotation, model.seed, model.n_trained) == (case["rotation"], case["seed"], 12345)
    if file["version"] == _kernels.lib.BQK_MODEL_VERSION:
        assert model.to_bytes() == data


@pytest.mark.parametrize("name", FILES)
def test_golden_codes_file_is_read(tmp_path, name):
    file = FILES[name]
    kind = file["codes_file"]
    path = tmp_path / "codes.npz"
    path.write_bytes(base64.b64decode(kind["npz"]))
    codes = Codes.load(path)
    case = next(
        c
        for c in file["cases"]
        if all(c[k] == kind[k] for k in ("dim", "bits", "metric")) and c["rotation"] != "none"
    )
    assert codes.packed.tobytes() == base64.b64decode(case["answers"]["codes"])
    assert codes.factors.tobytes() == base64.b64decode(case["answers"]["factors"])
    assert codes.model_id == RaBitQ.from_bytes(base64.b64decode(case["model"])).model_id
