"""Instruction sets: which there are, which is in use."""

from __future__ import annotations

import os
from collections.abc import Iterator

from bqcore._ffi import _text
from bqcore._native import ffi, lib


def _isas() -> Iterator[str]:
    i = 0
    while name := lib.bqk_isa_name(i):
        yield _text(name)
        i += 1


#: Instruction sets of this build in rising order: scalar, then avx2 and avx512, or neon.
ISAS = tuple(_isas())


def supported_isas() -> list[str]:
    """Instruction sets this machine can run."""
    return [isa for isa in ISAS if lib.bqk_isa_supported(isa.encode())]


def active_isa() -> str:
    """Name of the instruction set in use."""
    return _text(lib.bqk_isa_active())


def select_isa(name: str | None) -> None:
    """Force an instruction set; None selects the best one this machine has.

    Raises
    ------
    ValueError
        If the name is unknown or the machine lacks it.
    """
    status = lib.bqk_isa_select(ffi.NULL if name is None else name.encode())
    if status == lib.BQK_EINVAL:
        raise ValueError(f"isa: expected one of {', '.join(ISAS)}, not {name!r}")
    if status != lib.BQK_OK:
        raise ValueError(f"isa: expected one of {', '.join(supported_isas())} on this machine, not {name!r}")


if os.environ.get("BQCORE_ISA"):
    select_isa(os.environ["BQCORE_ISA"])
