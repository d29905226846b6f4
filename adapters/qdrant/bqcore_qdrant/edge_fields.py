"""What the embedded engine takes of qdrant-client's models; all else is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from bqcore._validation import InputTypeError
from bqcore_qdrant.versions import EDGE, client_version

# Every module of the embedded client imports this one first: its others need models of this release.
if client_version() < EDGE:
    raise ImportError(
        f"the embedded engine needs qdrant-client {EDGE} or later, not {client_version()}: "
        f"pip install 'qdrant-client>={EDGE}'"
    )

#: Arguments without a meaning where one process holds the only copy and every call waits.
MEANINGLESS = frozenset({"wait", "ordering", "consistency", "timeout"})


def unknown(what: str, value: object) -> TypeError:
    """Return the error for a value of a type that is not known."""
    return TypeError(f"the embedded engine: expected {what} that it knows, not {type(value).__name__}")


def refused(owner: str, name: str, value: object) -> ValueError:
    """Return the error for a field or an argument that cannot be done."""
    return ValueError(f"the embedded engine does not take {owner}.{name}: expected None, not {value!r}")


def only(model: BaseModel, *names: str) -> None:
    """Check that no field of a model but those named is set.

    Raises
    ------
    ValueError
        With the field's name.
    """
    for name in type(model).model_fields:
        value = getattr(model, name, None)
        if name not in names and value is not None:
            raise refused(type(model).__name__, name, value)


def check_options(method: str, options: Mapping[str, Any], *more: str) -> None:
    """Check that no further argument of a method is set, but those without a meaning here.

    Raises
    ------
    TypeError
        If qdrant-client has no such argument either, or it cannot be done.
    """
    for name, value in options.items():
        if name not in MEANINGLESS and name not in more and value is not None:
            raise InputTypeError(f"the embedded engine: {method} does not take {name} = {value!r}")


def text_of(value: Any) -> str:
    """Return the text of an enumeration's member, or of a plain str."""
    return str(value.value if hasattr(value, "value") else value)


def member(value: Any, enum: Any) -> Any:
    """Return the member of an Edge enumeration for one of qdrant-client's; None stays None.

    ``one_and_half_bits`` becomes ``OneAndHalfBits``, ``turbo16`` becomes ``Turbo16``.

    Raises
    ------
    TypeError
        If the engine has no such member.
    """
    if value is None:
        return None
    text = text_of(value)
    for name in (text.capitalize(), "".join(part.capitalize() for part in text.split("_"))):
        if hasattr(enum, name):
            return getattr(enum, name)
    raise InputTypeError(f"the embedded engine: expected a member of {enum.__name__}, not {text!r}")
