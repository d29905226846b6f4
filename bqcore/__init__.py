"""Quantization layer for the vector database you already run.

Codecs train, encode, decode and estimate; `search` scans codes and rescores; `advise` chooses a codec, and
`study` says what quantization will do to vectors and what to set in a database.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.codes_file import append_mapped, open_mapped, save_mapped
from bqcore.quantizer import Quantizer
from bqcore.rabitq import RaBitQ
from bqcore.registry import CODECS, load, make_codec
from bqcore.rescore import Tier
from bqcore.scan import ScanIndex, ScanResult
from bqcore.search import SearchResult, search

if TYPE_CHECKING:
    from bqcore.advisor import Advice, advise
    from bqcore.bbq import BBQ
    from bqcore.learned_binary import LearnedBinary
    from bqcore.median_binary import MedianBinary
    from bqcore.osq import OSQ
    from bqcore.pq import PQ
    from bqcore.saq import SAQ
    from bqcore.scalar import Scalar
    from bqcore.sign_magnitude import SignMagnitude
    from bqcore.transformer import Quantized
    from bqcore.turbo import Turbo
    from bqcore.vq import VQ

try:
    __version__ = _version("bqcore")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

# The function takes the place of the package of the same name, whose modules are found all the same. This has
# to come before anything else loads the package, and after __version__.
from bqcore.study import study  # type: ignore[no-redef]

# Name -> module of what is loaded when it is first asked for.
_LATER = {
    "Advice": "bqcore.advisor",
    "advise": "bqcore.advisor",
    "Quantized": "bqcore.transformer",
    **{name: module for module, name in CODECS.values() if name != "RaBitQ"},
}

__all__ = [
    "BBQ",
    "OSQ",
    "PQ",
    "SAQ",
    "VQ",
    "Advice",
    "Codec",
    "Codes",
    "LearnedBinary",
    "MedianBinary",
    "Quantized",
    "Quantizer",
    "RaBitQ",
    "Scalar",
    "ScanIndex",
    "ScanResult",
    "SearchResult",
    "SignMagnitude",
    "Tier",
    "Turbo",
    "__version__",
    "advise",
    "append_mapped",
    "load",
    "make_codec",
    "open_mapped",
    "save_mapped",
    "search",
    "study",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'bqcore' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
