"""What people read when a command fails: errors of Python functions in the words of the shell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bqcore._validation import InputTypeError
from bqcore.datasets import ColumnChoiceError

# Parameters of functions that options call by another name; the first one that the command has is meant.
_ALIASES = {
    "bytes_per_vector": ("bytes", "bytes_per_vector"),
    "vector_column": ("vector_column", "column"),
    "column": ("vector_column", "column"),
    "codecs": ("codec",),
    "zero_vectors": ("keep_zero",),
    "n_queries": ("n_queries", "queries"),
}


def is_for_users(error: Exception) -> bool:
    """Tell whether an error is about what the user gave; any other one is a fault of this package.

    A TypeError that no check of ours raised is such a fault, whatever its text.
    """
    is_from_driver = type(error).__module__.partition(".")[0] in (
        "psycopg",
        "qdrant_client",
        "qdrant_edge",
        "grpc",
    )
    expected = ValueError | InputTypeError | OSError | ImportError | RuntimeError
    return is_from_driver or isinstance(error, expected)


def is_bad_input(error: Exception) -> bool:
    """Tell whether the exit code is that of bad input."""
    return isinstance(error, ValueError | InputTypeError | FileNotFoundError)


def command_of(root: Any, arguments: Sequence[str]) -> Any:
    """Return the command of Typer's that arguments call: the deepest one that they name."""
    found = root
    for argument in arguments:
        found = getattr(found, "commands", {}).get(argument, found)
    return found


def in_shell_words(error: Exception, command: Any) -> str:
    """Return the text of an error with options in place of parameters.

    Parameters
    ----------
    error : Exception
    command : Typer's command
        Whose options are meant.

    Returns
    -------
    str
        ``metric='l2'`` becomes ``--metric l2``, and ``target_recall: expected ...`` becomes
        ``--target-recall: expected ...``; parameters that the command does not have stay.
    """
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    options = _options(command)
    for name, flag in options.items():
        if name == "zero_vectors":
            text = text.replace("zero_vectors='keep'", flag)
        # a value as Python writes it
        text = re.sub(rf"(?<![\w-]){name}=(?:'([^']*)'|([\w.-]+))", rf"{flag} \1\2", text)
        # an argument at the beginning of a message, or one whose name can be no word
        text = re.sub(rf"(^|: ){name}: ", rf"\1{flag}: ", text)
        if "_" in name:
            text = re.sub(rf"(?<![\w-]){name}(?![\w.(])", flag, text)
    if isinstance(error, ColumnChoiceError):
        chooser = options.get("column")
        text += f"; choose it with {chooser}" if chooser and chooser not in text else ""
    return text


def _options(command: Any) -> dict[str, str]:
    """Return options by the names of parameters that they stand for."""
    own: dict[str, str] = {}
    for parameter in command.params:
        flag = max(parameter.opts, key=len)
        if flag.startswith("--"):
            own[flag.lstrip("-").replace("-", "_")] = flag
    found = dict(own)
    for name, others in _ALIASES.items():
        flags = [own[one] for one in others if one in own]
        if flags:
            found[name] = flags[0]
        else:
            found.pop(name, None)
    return found
