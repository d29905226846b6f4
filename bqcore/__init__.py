"""Quantization layer for the vector database you already run.

Data flows train -> encode -> store -> search -> rescore; each word is a module.
"""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version

from bqcore.codec import Codec
from bqcore.codes import Codes
from bqcore.codes_file import append_mapped, open_mapped, save_mapped
from bqcore.quantizer import Quantizer
from bqcore.rabitq import RaBitQ
from bqcore.registry import load, make_codec
from bqcore.rescore import Tier
from bqcore.scan import ScanIndex, ScanResult
from bqcore.search import SearchResult, search

try:
    __version__ = _version("bqcore")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "Codec",
    "Codes",
    "Quantizer",
    "RaBitQ",
    "ScanIndex",
    "ScanResult",
    "SearchResult",
    "Tier",
    "__version__",
    "append_mapped",
    "load",
    "make_codec",
    "open_mapped",
    "save_mapped",
    "search",
]
