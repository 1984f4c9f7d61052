"""The report site: links that lead somewhere, words for every picture, nothing from a network."""

import itertools
import json
import re

import nbformat
import pytest
from bs4 import BeautifulSoup
from click.testing import CliRunner

from proxylib.study import notebooks, report
from proxylib.study.cli import app

BOOKS = notebooks.notebooks(("00", "01"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Two notebooks, and a second column of which only the first claim is judged."""
    figures, out = tmp_path_factory.mktemp("figures"), tmp_path_factory.mktemp("site")
    both = {
        "id": "C1",
        "statement": "It is <fast>.",
        "rule": "A ratio above 2.",
        "evidence": "It was 1.5.",
        "effect": -1.5,
        "unit": "percentage points",
        "low": None,
        "high": None,
        "verdict": "partly reproduced",
        "likely_cause": "Chance.",
    }
    one = both | {"id": "C2", "low": -2.0, "high": 1.0}
    for name, claims in {"alpha": [both], "kanji": [both | {"effect": None}, one]}.items():
        (figures / f"{name}-full").mkdir()
        content = {"claims": claims} | ({"edition": 2} if name == "kanji" else {})
        (figures / f"{name}-full" / "claims.json").write_text(json.dumps(content))
    (figures / "kanji-full" / "03_convergence-samples.png").write_bytes(b"\x89PNG")
    report.build(BOOKS, figures, out)
    return out


@pytest.fixture(scope="module")
def pages(site):
    found = {path.name: path.read_text(encoding="utf-8") for path in site.glob("*.html")}
    assert found.keys() == {"index.html", *(f"{path.stem}.html" for path in BOOKS)}
    return {name: BeautifulSoup(text, "html.parser") for name, text in found.items()}


def test_every_link_leads_to_a_page_and_a_place_of_it(pages, site):
    for name, page in pages.items():
        for tag, attribute in (("a", "href"), ("img", "src"), ("link", "href")):
            for element in page.find_all(tag):
                target = element[attribute]
                if target.startswith("data:") or (tag == "a" and target.startswith("https:")):
                    continue
                file, _, place = target.partition("#")
                assert (site / (file or name)).exists(), target
                if place:
                    assert pages[file or name].find(id=place), target


def test_nothing_is_loaded_from_a_network_and_no_formula_is_left_to_scripts(pages, site):
    for page in pages.values():
        assert not page.find_all(["script", "iframe"])
        for element in page.find_all(src=True) + page.find_all("link"):
            assert not re.match("(https?:)?//", element.get("src") or element["href"])
        for code in page.find_all(["pre", "code", "math"]):
            code.extract()
        assert "$" not in page.get_text() and "\\" not in page.get_text()
    assert "url(" not in (site / "site.css").read_text()


def test_formulas_are_mathml_with_the_patents_numbers():
    html = report.render(r"So $p(x)=\arg\min d$ and" + "\n\n$$a=b \\tag{5}$$")
    page = BeautifulSoup(html, "html.parser")
    assert [math.get_text() for math in page.find_all("math")] == ["p(x)=argmind", "a=b"]
    assert "(5)" in page.get_text() and "tag" not in page.get_text()


def test_every_picture_has_words_of_its_own(pages):
    for name, page in pages.items():
        texts = [image["alt"] for image in page.find_all("img")]
        assert texts and all(len(text) > 30 for text in texts), name
        assert not any(text.startswith("Picture in the section") for text in texts), name


def test_a_picture_without_caption_is_named_after_its_section():
    picture = nbformat.v4.new_output("display_data", data={"image/png": "aGVsbG8="})
    cells = [nbformat.v4.new_markdown_cell("# A\n## What $x$ is")]
    cells += [nbformat.v4.new_code_cell("", outputs=[picture])]
    cells += [nbformat.v4.new_markdown_cell("**Bold** is no caption.")]
    book = nbformat.v4.new_notebook(cells=cells)
    report.describe_pictures(book)
    assert picture.metadata["image/png"]["alt"] == "Picture in the section “What x is”"


def test_each_page_has_one_title_and_headings_in_order(pages):
    for page in pages.values():
        levels = [int(h.name[1]) for h in page.find_all(re.compile("^h[1-6]$"))]
        assert levels.count(1) == 1 and levels[0] == 1
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
        assert not any(h.get_text(strip=True) == "" for h in page.find_all("th"))


def test_the_ledger_has_a_row_a_claim_and_a_column_a_data_set(pages):
    rows = pages["index.html"].select("table.ledger tr")
    assert [cell.get_text() for cell in rows[0].find_all("th")] == [
        "Claim",
        "kanji",
        "alpha, first edition",
    ]
    first, second = (
        [cell.get_text(" ", strip=True) for cell in r.find_all("td")] for r in rows[1:]
    )
    assert first == ["≈ partly reproduced", "≈ partly reproduced −1.5 points"]
    assert second == ["≈ partly reproduced −1.5 points (−2 to 1)", "– not judged"]
    assert "It is <fast>." in rows[1].get_text()


def test_the_command_says_where_the_site_is_and_why_it_can_not_be(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "notebooks", lambda: BOOKS[:1])
    done = CliRunner().invoke(app, ["report", "--out", str(tmp_path / "a")])
    assert done.output.strip() == f"open {tmp_path / 'a' / 'index.html'}"
    (tmp_path / "b").write_text("")
    done = CliRunner().invoke(app, ["report", "--out", str(tmp_path / "b")])
    assert done.exit_code == 1 and "Error" in done.output
