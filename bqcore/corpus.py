"""Real text that every machine has: the documentation strings of Python and of the installed packages.

Sources are parsed with `ast`, never imported: importing a whole environment is slow and has side effects.
Only the standard library's C modules, which have no source to parse, are imported.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import random
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MIN_CHARACTERS = 40
MAX_CHARACTERS = 600
MAX_FILE_BYTES = 1_000_000
DEFAULT_MAX_PASSAGES = 20_000

Progress = Callable[[int, int], None]

_SKIPPED_FOLDERS = frozenset(
    [
        "test",
        "tests",
        "testing",
        "idlelib",
        "lib2to3",
        "turtledemo",
        "ensurepip",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "_vendor",
        "_distutils",
        "_distutils_hack",
        "pip",
        "setuptools",
        "pkg_resources",
    ]
)

# C module -> the name under which its objects are documented.
_C_MODULES = {
    "builtins": "",
    "_asyncio": "asyncio",
    "_bisect": "bisect",
    "_bz2": "bz2",
    "_codecs": "codecs",
    "_collections": "collections",
    "_contextvars": "contextvars",
    "_csv": "csv",
    "_ctypes": "ctypes",
    "_datetime": "datetime",
    "_decimal": "decimal",
    "_functools": "functools",
    "_hashlib": "hashlib",
    "_heapq": "heapq",
    "_imp": "imp",
    "_io": "io",
    "_json": "json",
    "_locale": "locale",
    "_lzma": "lzma",
    "_operator": "operator",
    "_pickle": "pickle",
    "_queue": "queue",
    "_random": "random",
    "_signal": "signal",
    "_socket": "socket",
    "_sqlite3": "sqlite3",
    "_sre": "re",
    "_ssl": "ssl",
    "_statistics": "statistics",
    "_struct": "struct",
    "_thread": "threading",
    "_warnings": "warnings",
    "_weakref": "weakref",
    "array": "array",
    "atexit": "atexit",
    "binascii": "binascii",
    "cmath": "cmath",
    "faulthandler": "faulthandler",
    "fcntl": "fcntl",
    "gc": "gc",
    "grp": "grp",
    "itertools": "itertools",
    "marshal": "marshal",
    "math": "math",
    "mmap": "mmap",
    "posix": "os",
    "pwd": "pwd",
    "pyexpat": "xml.parsers.expat",
    "resource": "resource",
    "select": "select",
    "sys": "sys",
    "syslog": "syslog",
    "termios": "termios",
    "time": "time",
    "tracemalloc": "tracemalloc",
    "unicodedata": "unicodedata",
    "zlib": "zlib",
}

# Python twins of C modules, and the folder in which numpy keeps its public functions.
_PUBLIC_NAMES = {"_pydecimal": "decimal", "_pyio": "io", "_collections_abc": "collections.abc"}
_PUBLIC_FOLDERS = frozenset({"_core"})

_SECTION_RULE = re.compile(r"^\s*[-=~^\"*#]{3,}\s*$", re.MULTILINE)
_BOILERPLATE = re.compile(r"^(\w+\(.*\)( -> .*)?|--)$")
_SENTENCE_END = re.compile(r"[.!?:;](?=\s)")


@dataclass(frozen=True)
class Passage:
    """A piece of documentation.

    Attributes
    ----------
    title : str
        The dotted name of the documented object, e.g. ``collections.deque.appendleft``.
    text : str
        40 to 600 characters, white space normalised.
    """

    title: str
    text: str


@dataclass(frozen=True)
class _Source:
    path: Path
    module: str
    is_standard: bool


def python_docs(
    *,
    min_passages: int = 10_000,
    max_passages: int = DEFAULT_MAX_PASSAGES,
    random_state: int = 0,
    progress: Progress | None = None,
) -> list[Passage]:
    """Collect passages of documentation from this Python and the packages beside it.

    Parameters
    ----------
    min_passages : int
        Fewer than this is an error.
    max_passages : int
        The most to return. The standard library is kept first, then public objects of packages, then
        private ones, then the later parts of long docstrings; the group that overflows is sampled.
    random_state : int
        Seed of that sample.
    progress : callable, optional
        Called with (files read, files in all).

    Returns
    -------
    list of Passage
        Sorted by title, texts all different; the same on every run with the same environment.

    Raises
    ------
    ValueError
        If `min_passages` exceeds `max_passages`, or the environment holds fewer than `min_passages`.
    """
    if not 0 < min_passages <= max_passages:
        raise ValueError(
            f"min_passages must be between 1 and max_passages ({max_passages}), not {min_passages}"
        )
    groups: list[list[Passage]] = [[], [], [], []]
    sources = _sources()
    for number, source in enumerate(sources, 1):
        _collect(_documented_in_file(source), source.is_standard, groups)
        if progress is not None:
            progress(number, len(sources))
    _collect(_documented_in_c_modules(), True, groups)
    passages = _select(groups, max_passages, random_state)
    if len(passages) < min_passages:
        raise ValueError(
            f"expected at least {min_passages} passages of documentation, not {len(passages)} "
            f"(in {len(sources)} files); install more packages, or lower min_passages"
        )
    return passages


def _sources() -> list[_Source]:
    """List the Python files of the standard library, then of the installed packages."""
    paths = sysconfig.get_paths()
    roots = [Path(paths["stdlib"]), Path(paths["purelib"]), Path(paths["platlib"])]
    sources: list[_Source] = []
    for root in dict.fromkeys(path.resolve() for path in roots):
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if _SKIPPED_FOLDERS.isdisjoint(parts) and path.stat().st_size <= MAX_FILE_BYTES:
                sources.append(_Source(path, _module_name(parts), root == roots[0].resolve()))
    return sources


def _module_name(parts: tuple[str, ...]) -> str:
    """Name a module as users write it: ``scipy.optimize``, not ``scipy.optimize._minimize``."""
    *packages, module = parts
    module = _PUBLIC_NAMES.get(module, module)
    return ".".join(packages if module.startswith("_") else [*packages, module])


def _documented_in_file(source: _Source) -> Iterator[tuple[str, str]]:
    """Yield (title, docstring) of a file's module, classes and functions."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source.path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return
    yield from _documented_in_node(tree, source.module)


def _documented_in_node(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, str]]:
    yield name, ast.get_docstring(node) or ""
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _documented_in_node(child, f"{name}.{child.name}".lstrip("."))
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name}.{child.name}".lstrip("."), ast.get_docstring(child) or ""


def _documented_in_c_modules() -> Iterator[tuple[str, str]]:
    """Yield (title, docstring) of the standard library's modules that are compiled from C."""
    for module_name, public_name in sorted(_C_MODULES.items()):
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue
        for name, member in sorted(vars(module).items()):
            title = f"{public_name}.{name}".lstrip(".")
            if inspect.isbuiltin(member) or inspect.isclass(member):
                yield title, _own_docstring(member)
            if inspect.isclass(member):
                for attribute, method in sorted(vars(member).items()):
                    if callable(method) or inspect.isgetsetdescriptor(method):
                        yield f"{title}.{attribute}", _own_docstring(method)


def _own_docstring(member: object) -> str:
    doc = getattr(member, "__doc__", None)
    return inspect.cleandoc(doc) if isinstance(doc, str) else ""


def _collect(documented: Iterable[tuple[str, str]], is_standard: bool, groups: list[list[Passage]]) -> None:
    """Cut docstrings into passages and sort them into groups by how much a reader wants them."""
    for title, doc in documented:
        pieces = _pieces(doc) if len(doc) >= MIN_CHARACTERS and title else []
        is_private = any(part.startswith("_") and part not in _PUBLIC_FOLDERS for part in title.split("."))
        group = 2 if is_private else 0 if is_standard else 1
        for number, text in enumerate(pieces, 1):
            if number == 1:
                groups[group].append(Passage(title, text))
            else:
                groups[3].append(Passage(f"{title} ({number})", text))


def _pieces(doc: str) -> list[str]:
    """Cut a docstring, up to its examples, at sentences into pieces of 40 to 600 characters."""
    prose = doc.partition(">>>")[0]
    lines = _SECTION_RULE.sub("", prose).splitlines()
    text = " ".join(" ".join(line for line in lines if not _BOILERPLATE.match(line.strip())).split())
    pieces = []
    while len(text) > MAX_CHARACTERS:
        ends = [found.end() for found in _SENTENCE_END.finditer(text, MIN_CHARACTERS, MAX_CHARACTERS)]
        end = ends[-1] if ends else text.rfind(" ", MIN_CHARACTERS, MAX_CHARACTERS)
        end = end if end > 0 else MAX_CHARACTERS
        pieces.append(text[:end].strip())
        text = text[end:].strip()
    pieces.append(text)
    return [piece for piece in pieces if len(piece) >= MIN_CHARACTERS]


def _select(groups: list[list[Passage]], max_passages: int, random_state: int) -> list[Passage]:
    """Take the groups in order until `max_passages` different texts are found."""
    generator = random.Random(random_state)
    selected: list[Passage] = []
    seen: set[str] = set()
    for group in groups:
        fresh = []
        for passage in sorted(group, key=lambda item: (item.title, item.text)):
            if passage.text not in seen:
                seen.add(passage.text)
                fresh.append(passage)
        room = max_passages - len(selected)
        selected += fresh if len(fresh) <= room else generator.sample(fresh, room)
    return sorted(selected, key=lambda item: (item.title, item.text))
