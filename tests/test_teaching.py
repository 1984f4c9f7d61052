"""TEACHING.md names what there is, and the slides it promises can be made."""

import re

import nbformat
import pytest
from nbconvert import SlidesExporter
from traitlets.config import Config

from proxylib.datasets.paths import PROJECT
from proxylib.study import notebooks

TEACHING = (PROJECT / "TEACHING.md").read_text(encoding="utf-8")
ROUTES = re.findall(r"^\| (\d+) \| (\d\d) \| ([^|]+) \|", TEACHING, re.MULTILINE)


def test_every_section_of_a_route_is_a_heading_of_its_notebook():
    assert len(ROUTES) > 15
    for _, notebook, sections in ROUTES:
        [path] = notebooks.notebooks((notebook,))
        cells = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown"]
        headings = re.findall(r"^#+ (.*)$", "\n".join(cells), re.MULTILINE)
        for section in sections.split("; "):
            assert section in headings, f"{notebook}: {section}"


def test_the_minutes_of_each_route_add_up():
    for minutes in (90, 30):
        [table] = re.findall(
            rf"^## {minutes} minutes.*?(?=^## )", TEACHING, re.DOTALL | re.MULTILINE
        )
        assert sum(map(int, re.findall(r"^\| (\d+) \|", table, re.MULTILINE))) == minutes


@pytest.mark.parametrize("name", ["00", "01", "02"])
def test_the_notebook_becomes_slides_without_plumbing(name):
    [path] = notebooks.notebooks((name,))
    book = nbformat.read(path, 4)
    config = Config({"TagRemovePreprocessor": {"remove_input_tags": {"hide-input"}}})
    html, _ = SlidesExporter(config=config).from_notebook_node(book)
    headings = [c for c in book.cells if c.source.startswith("## ")]
    shown = [c for c in headings if c.metadata.slideshow.slide_type == "slide"]
    assert html.count("<section>") > 2 * len(shown) > 8
    assert html.count("<h2") == len(shown)
    assert "# YOUR CODE" not in html and "figures.save" not in html and "import torch" not in html


def test_a_reading_time_that_is_stated_is_that_of_the_words_there_are():
    found = 0
    for path in notebooks.notebooks():
        book = nbformat.read(path, 4)
        if stated := re.search(r"(\d+) minutes\s\(([\d,]+)\swords\)", book.cells[0].source):
            read = [c for c in book.cells if "solution" not in c.metadata.get("tags", [])]
            words = sum(len(c.source.split()) for c in read if c.cell_type == "markdown")
            assert abs(int(stated[2].replace(",", "")) / words - 1) < 0.1, (path.stem, words)
            assert 80 < words / int(stated[1]) < 150, "formulas, code and pictures take time too"
            found += 1
    assert found >= 4
