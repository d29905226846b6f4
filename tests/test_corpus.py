from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from bqcore import corpus
from bqcore.corpus import MAX_CHARACTERS, MIN_CHARACTERS, Passage, python_docs


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    """Passages of the standard library alone, which takes a second to parse."""
    standard = [source for source in corpus._sources() if source.is_standard]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_sources", lambda: standard)
        return python_docs(min_passages=1_000, max_passages=100_000)


def test_passages_have_the_promised_form(passages: list[Passage]) -> None:
    assert len(passages) >= 1_000
    for passage in passages:
        assert passage.title
        assert MIN_CHARACTERS <= len(passage.text) <= MAX_CHARACTERS
        assert passage.text == " ".join(passage.text.split())


def test_texts_differ_and_titles_are_sorted(passages: list[Passage]) -> None:
    assert len({passage.text for passage in passages}) == len(passages)
    assert passages == sorted(passages, key=lambda passage: (passage.title, passage.text))


def test_python_and_c_objects_are_there(passages: list[Passage]) -> None:
    titles = {passage.title for passage in passages}
    assert {"textwrap.wrap", "str.split", "collections.deque.appendleft"} <= titles


def test_this_environment_has_packages_to_read() -> None:
    packages = {source.module.partition(".")[0] for source in corpus._sources() if not source.is_standard}
    assert {"numpy", "rich"} <= packages


def test_nothing_is_imported_from_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _environment(
        tmp_path, monkeypatch, {"trap.py": '"""' + "A module that must not run. " * 3 + '"""\n1 / 0\n'}
    )
    found = python_docs(min_passages=1, max_passages=100_000)
    assert "trap" in {passage.title for passage in found}
    assert "trap" not in sys.modules


def test_broken_files_are_tolerated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doc = '"""' + "A perfectly good documentation string. " * 2 + '"""\n'
    _environment(
        tmp_path,
        monkeypatch,
        {"broken.py": "def (:\n", "latin.py": b'"""caf\xe9"""\n', "nul.py": b"\0", "good.py": doc},
    )
    titles = {passage.title for passage in python_docs(min_passages=1)}
    assert "good" in titles
    assert not {"broken", "latin", "nul"} & titles


def test_same_sample_on_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "".join(f'def f{i}():\n    """Return {i} {"very " * 10}carefully."""\n' for i in range(50))
    _environment(tmp_path, monkeypatch, {"many.py": source})
    monkeypatch.setattr(corpus, "_C_MODULES", {})
    first = python_docs(min_passages=5, max_passages=20)
    assert first == python_docs(min_passages=5, max_passages=20)
    assert len(first) == 20
    assert first != python_docs(min_passages=5, max_passages=20, random_state=1)


def test_too_few_passages_name_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _environment(tmp_path, monkeypatch, {})
    monkeypatch.setattr(corpus, "_C_MODULES", {})
    with pytest.raises(ValueError, match=r"expected at least 10 passages .*, not 0"):
        python_docs(min_passages=10)
    with pytest.raises(ValueError, match=r"max_passages \(5\), not 6"):
        python_docs(min_passages=6, max_passages=5)


def test_long_docstrings_are_cut_at_sentences() -> None:
    pieces = corpus._pieces("This sentence is long enough to count. " * 40 + "\n>>> never_shown()")
    assert len(pieces) > 1
    assert all(piece.endswith(".") and len(piece) <= MAX_CHARACTERS for piece in pieces)
    assert corpus._pieces("x" * 2_000)[0] == "x" * MAX_CHARACTERS


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("scipy", "optimize", "_minimize"), "scipy.optimize"),
        (("json", "__init__"), "json"),
        (("_pydecimal",), "decimal"),
        (("sklearn", "utils", "graph"), "sklearn.utils.graph"),
    ],
)
def test_modules_are_named_as_users_import_them(parts: tuple[str, ...], name: str) -> None:
    assert corpus._module_name(parts) == name


def _environment(root: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str | bytes]) -> None:
    """Make a folder look like both the standard library and the installed packages."""
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (root / name).write_bytes(data)
    paths = dict.fromkeys(("stdlib", "purelib", "platlib"), str(root))
    monkeypatch.setattr(sysconfig, "get_paths", lambda: paths)
