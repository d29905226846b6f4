"""The kernels by name, whichever file holds them; `_ffi` crosses into C."""

from bqcore._codebook_kernels import lut_scan, pq_assign
from bqcore._ffi import FACTORS_DTYPE, METRICS, ROTATIONS, Float32Array
from bqcore._isa import ISAS, active_isa, select_isa, supported_isas
from bqcore._model import Model, ModelFormatError, Query
from bqcore._native import ffi, lib
from bqcore._products import matmul
from bqcore._sign_kernels import flip, sign_magnitude_sym

__all__ = [
    "FACTORS_DTYPE",
    "ISAS",
    "METRICS",
    "ROTATIONS",
    "Float32Array",
    "Model",
    "ModelFormatError",
    "Query",
    "active_isa",
    "ffi",
    "flip",
    "lib",
    "lut_scan",
    "matmul",
    "pq_assign",
    "select_isa",
    "sign_magnitude_sym",
    "supported_isas",
]
