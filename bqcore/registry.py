"""Codecs by name, and specs like ``saq(bits=1, centroids=256)``."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from bqcore import _archive
from bqcore.codec import FORMAT, FORMAT_VERSION, Codec

#: Name in specs -> module and class; a new codec is entered here.
CODECS = {
    "rabitq": ("bqcore.rabitq", "RaBitQ"),
    "saq": ("bqcore.saq", "SAQ"),
    "learned_binary": ("bqcore.learned_binary", "LearnedBinary"),
    "sign_magnitude": ("bqcore.sign_magnitude", "SignMagnitude"),
    "turbo": ("bqcore.turbo", "Turbo"),
    "median_binary": ("bqcore.median_binary", "MedianBinary"),
    "scalar": ("bqcore.scalar", "Scalar"),
    "osq": ("bqcore.osq", "OSQ"),
    "bbq": ("bqcore.bbq", "BBQ"),
    "pq": ("bqcore.pq", "PQ"),
    "vq": ("bqcore.vq", "VQ"),
}

# Parameters that callers give without asking whether the codec has them.
_FOR_EVERY_CODEC = ("metric", "random_state")


def codec_class(name: str) -> type[Codec]:
    """Return the class of a codec.

    Raises
    ------
    ValueError
        If there is no codec of that name.
    """
    if name not in CODECS:
        raise ValueError(f"codec: expected one of {', '.join(CODECS)}, not {name!r}")
    module, attribute = CODECS[name]
    found: type[Codec] = getattr(import_module(module), attribute)
    return found


def parse_spec(spec: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Split a spec into its name, positional and named arguments.

    Parameters
    ----------
    spec : str
        A name, or a call with literals: ``rabitq``, ``rabitq(bits=4)``, ``faiss("OPQ48,PQ48x8")``. A name as
        argument is taken as text: ``rabitq(rotation=none)``.

    Raises
    ------
    ValueError
        If it is neither.
    """

    def literal(node: ast.expr) -> Any:
        return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)

    try:
        node = ast.parse(spec.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            named = {keyword.arg: literal(keyword.value) for keyword in node.keywords if keyword.arg}
            if len(named) == len(node.keywords):
                return node.func.id, [literal(argument) for argument in node.args], named
    except (SyntaxError, ValueError):
        pass
    raise ValueError(f"codec: expected a name or name(key=value, ...), not {spec!r}")


def make_codec(spec: str, **defaults: Any) -> Codec:
    """Make an unfitted codec from a spec.

    Parameters
    ----------
    spec : str
        As `parse_spec`; named arguments only.
    **defaults
        Parameters that the spec may leave out. `metric` and `random_state`, which callers give to every
        codec, are ignored where a codec has no use for them.

    Raises
    ------
    ValueError
        If the codec or a parameter is unknown.
    """
    name, positional, named = parse_spec(spec)
    cls = codec_class(name)
    known = list(inspect.signature(cls).parameters)
    if positional:
        raise ValueError(f"codec: {name} takes named parameters ({', '.join(known)}), not {positional[0]!r}")
    for parameter in (*named, *(one for one in defaults if one not in _FOR_EVERY_CODEC)):
        if parameter not in known:
            raise ValueError(f"codec: {name} has {', '.join(known)}, not {parameter!r}")
    return cls(**{**{key: value for key, value in defaults.items() if key in known}, **named})


def load(path: str | PathLike[str]) -> Codec:
    """Read a fitted model of any codec.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is foreign, truncated, damaged or of a newer version.
    """
    from bqcore.rabitq import RaBitQ

    with Path(path).open("rb") as file:
        if file.read(len(RaBitQ.MAGIC)) == RaBitQ.MAGIC:
            return RaBitQ.load(path)
    with _archive.reading(Path(path), "model"):
        header, _ = _archive.read(Path(path), FORMAT, FORMAT_VERSION)
        cls = codec_class(header["codec"])
    return cls.load(path)
