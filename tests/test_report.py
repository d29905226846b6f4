"""The HTML report: whole, offline, small, true to the document, and working in a browser."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

pytest.importorskip("matplotlib", reason="reports need matplotlib: pip install 'bqcore[plot]'")

from bqcore.datasets import clustered
from bqcore.report import report_html
from bqcore.study import Source, Study, study
from bqcore.study.engines import postgres
from bqcore.study.source import Origin

CODECS = ["rabitq(bits=1)", "turbo(bits=2)", "rabitq(bits=4)"]
TEXTS = ["<script>alert('a & b')</script> of text 7"] * 450


@pytest.fixture(scope="module")
def found() -> Study:
    data = clustered(1200, 20, n_queries=450, metric="cosine", random_state=4)
    source = Source(
        data.base, data.queries, "cosine", Origin("file", "my <data>/x.npy", "my <data>/x.npy"), 1200,
        query_texts=TEXTS,
    )  # fmt: skip
    return study(source, engines={"postgres": postgres}, codecs=CODECS, seconds=1e9)


@pytest.fixture(scope="module")
def page(found: Study) -> str:
    return report_html(found.document)


class Reader(HTMLParser):
    """Numbers marked as data, and all other text that is not program, picture or command."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "data":
            self.values.append(float(found["value"] or "nan"))
        self.addresses += [str(found[name]) for name in ("src", "href") if name in found]
        if tag not in ("meta", "link", "input", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not {"data", "script", "style", "svg", "pre", "title"} & set(self._open):
            self.texts.append(data)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one)
    else:
        yield value


def test_every_number_is_in_the_document(found: Study, page: str) -> None:
    reader = Reader()
    reader.feed(page)
    known = {float(one) for one in leaves(found.document) if isinstance(one, int | float)}
    assert len(reader.values) > 100
    assert set(reader.values) <= known
    words = [one for one in leaves(found.document) if isinstance(one, str)]
    for text in reader.texts:
        for token in re.findall(r"[\w.,^%-]*\d[\w.,^%-]*", text.replace("recall@", "")):
            assert any(token.strip(".,") in word for word in words), (token, text)


def test_the_document_in_the_page_is_the_json(found: Study, page: str) -> None:
    packed = re.search(r'<script type="application/json" id="document">(.*?)</script>', page, re.DOTALL)
    assert packed is not None
    assert json.loads(packed[1]) == json.loads(json.dumps(found.document))


def test_nothing_is_remote_and_text_is_escaped(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert [one for one in reader.addresses if not one.startswith(("#", "data:,"))] == []
    outside = re.sub(r'"http://www\.w3\.org/[^"]*"', "", page)
    assert "http://" not in outside
    assert "https://" not in outside
    assert "url(http" not in page
    assert "<script>alert" not in page
    assert "my &lt;data&gt;/x.npy" in page


def test_ids_are_unique(page: str) -> None:
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_size_for_1536_dimensions_and_100_000_vectors_stays_below_3_mb(found: Study) -> None:
    # What grows with the data: coordinates with the dimensions; points, queries and options are bounded.
    document = json.loads(json.dumps(found.document))
    wide = {name: (document["coordinates"][name] * 80)[:1536] for name in ("mean", "variance", "spectrum")}
    document["coordinates"] |= wide
    document["options"] += [{**one, "chosen": False} for one in document["options"]] * 3
    assert len(report_html(document).encode()) < 3_000_000


def test_show_opens_the_page_or_displays_it(found: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setitem(sys.modules, "IPython", None)
    found.show()
    assert Path(url2pathname(urlsplit(opened[0]).path)).read_text(encoding="utf-8") == report_html(
        found.document
    )

    shell, display = ModuleType("IPython"), ModuleType("IPython.display")
    shown: list[str] = []
    shell.get_ipython = object  # type: ignore[attr-defined]
    display.HTML = str  # type: ignore[attr-defined]
    display.display = shown.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    found.show()
    assert len(opened) == 1
    assert shown[0].startswith("<iframe srcdoc=")
    assert "<script>" not in shown[0]  # escaped: it belongs to the frame


BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
    if BROWSER is None:
        pytest.skip("no chromium on the PATH (Debian: apt install chromium); none is downloaded")
    with api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_works_in_a_browser(
    browser: Any, page: str, found: Study, tmp_path: Path, width: int, scheme: str
) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    tab = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(file.as_uri())
    tab.wait_for_selector("[data-ready=yes]")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width

    # The picture says more than its axes: each has lines or points of some size.
    for box in tab.locator("figure svg").all():
        size = box.bounding_box()
        assert size["width"] > 0.7 * min(width, 420)
        assert size["height"] > 150

    def shown(start: str) -> list[bool]:
        return tab.evaluate(
            "start => [...document.querySelectorAll(`[id^='${start}']`)]"
            ".map(element => element.style.display !== 'none')",
            start,
        )

    assert all(shown("tradeoff-codes-"))
    assert all(shown("tradeoff-rescored-"))
    tab.get_by_label("rescored", exact=True).check()
    assert not any(shown("tradeoff-codes-"))
    assert all(shown("tradeoff-rescored-"))
    box = tab.locator("input[data-series='candidates-series-0']")
    box.uncheck()
    assert not any(shown("candidates-series-0"))
    box.check()
    assert all(shown("candidates-series-0"))

    tab.locator("#oversampling").fill("0")
    codec = found.document["options"][0]["codec"]
    first = found.document["candidates"][codec][0]["recall"]
    assert tab.locator("[data-curve]").first.inner_text() == f"{first:.3f}"

    background = "getComputedStyle(document.body).backgroundColor"
    system = tab.evaluate(background)
    assert (system == "rgb(255, 255, 255)") == (scheme == "light")
    tab.locator("#theme").select_option("dark" if scheme == "light" else "light")
    assert tab.evaluate(background) != system

    tab.locator("button[data-copy]").first.click()
    tab.wait_for_function("document.querySelector('button[data-copy]').textContent !== 'Copy'")
    assert said == []
    assert [one for one in asked if one != file.as_uri()] == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out(browser: Any, page: str, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, offline=True)
    tab = context.new_page()
    tab.set_content(page)

    def colour(name: str) -> tuple[float, ...]:
        text = tab.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")
        return tuple(int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))

    def luminance(rgb: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        light, dark = sorted((luminance(colour(one)), luminance(colour(other))), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    # WCAG 2.1: 4.5 for text (AA), 3 for parts of a picture.
    for name in ("ink", "muted", "good", "warning"):
        assert contrast(name, "bg") >= 4.5
        assert contrast(name, "panel") >= 4.5
    for i in range(6):
        assert contrast(f"s{i}", "panel") >= 3
    context.close()
