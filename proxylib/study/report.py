"""A small static site of the executed notebooks, the verdicts first; read without a network."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup  # this, jinja2 and pygments come with nbconvert
from jinja2 import Environment, FileSystemLoader
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

from proxylib.study.claims.claim import NOT_REPRODUCED, NOT_TESTED, PARTLY, REPRODUCED

MARKS = {REPRODUCED: "✓", PARTLY: "≈", NOT_REPRODUCED: "✗", NOT_TESTED: "–"}
HERE = Path(__file__).parent / "site"


class _Renderer(IPythonRenderer):
    """nbconvert's own, but formulas become MathML, and headings can be linked to."""

    def heading(self, text: str, level: int, **_: object) -> str:
        words = BeautifulSoup(text, "html.parser").get_text().lower()
        return f'<h{level} id="{re.sub(r"[^a-z0-9]+", "-", words).strip("-")}">{text}</h{level}>\n'

    def inline_math(self, body: str) -> str:
        return convert(body.replace(r"\arg", r"\operatorname{arg}"))

    def block_math(self, body: str) -> str:
        body, *number = re.split(r"\\tag\{(\w+)\}", body)
        formula = convert(body.replace(r"\arg", r"\operatorname{arg}").strip(), display="block")
        label = f"<span>({number[0]})</span>" if number else ""
        return f'<span class="equation" tabindex="0">{formula}{label}</span>'


def render(markdown: str) -> str:
    """Markdown with formulas as HTML with MathML."""
    return MarkdownWithMath(renderer=_Renderer(escape=False)).render(markdown)


def words(markdown: str) -> str:
    """Markdown as plain text on one line, for an attribute."""
    return " ".join(BeautifulSoup(render(markdown), "html.parser").get_text().split())


def describe_pictures(book: nbformat.NotebookNode) -> None:
    """Gives every picture without an alt text its caption as one, else the section's heading.

    A caption is the text in italics with which the next Markdown cell begins.
    """
    heading = ""
    for i, cell in enumerate(book.cells):
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+ (.*)$", cell.source, re.MULTILINE)
            heading = found[-1] if found else heading
        after = [c.source for c in book.cells[i + 1 :] if c.cell_type == "markdown"][:1]
        caption = re.match(r"\*(?!\*)(.+?)\*(?:\n\n|$)", after[0] if after else "", re.DOTALL)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                text = caption[1] if caption else f"Picture in the section “{heading}”"
                output.metadata.setdefault("image/png", {}).setdefault("alt", words(text))


def page(path: Path, exporter: HTMLExporter, known: set[str]) -> dict:
    """A notebook as a page: its title, question (HTML), sections (id → words) and body (HTML).

    Args:
        known: names of the notebooks beside it; where one stands as code, it becomes a link.
    """
    book = nbformat.read(path, 4)
    describe_pictures(book)
    soup = BeautifulSoup(exporter.from_notebook_node(book)[0], "html.parser")
    for wide in soup.find_all("table"):
        wide.wrap(soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))
    for corner in soup.find_all(["th", "td"]):
        if corner.name == "th" and not corner.get_text(strip=True):
            corner.name = "td"  # pandas's corner; an empty heading says nothing to anybody
    for block in soup.find_all("pre"):
        block["tabindex"] = "0"  # so that the keyboard can scroll it
    for code in soup.find_all("code"):
        if code.get_text() in known - {path.stem}:
            code.wrap(soup.new_tag("a", href=f"{code.get_text()}.html"))
    first = book.cells[0].source
    question = re.search(r"\*\*Question\.\*\* (.*?)(?:\n\n|$)", first, re.DOTALL)
    return {
        "name": path.stem,
        "title": words(first.splitlines()[0].lstrip("# ")),
        "question": render(question[1]) if question else "",
        "sections": {h["id"]: h.get_text() for h in soup.find_all("h2")},
        "body": str(soup),
    }


def ledger(folders: Sequence[Path]) -> list[dict]:
    """Claims in their order: id, statement, and under `cells` the verdict of each folder or None.

    Args:
        folders: those with a `claims.json`, the columns of the ledger.
    """
    rows: dict[str, dict] = {}
    for folder in folders:
        content = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
        for claim in content["claims"]:
            row = rows.setdefault(claim["id"], claim | {"cells": dict.fromkeys(folders)})
            unit = claim["unit"].replace("percentage points", "points")
            unit = unit.replace("% of the slack at", "% less slack than at")  # it is the fall
            effect = "" if claim["effect"] is None else f"{claim['effect']:.3g} {unit}"
            if claim["low"] is not None:
                effect += f" ({claim['low']:.3g} to {claim['high']:.3g})"
            cell = {"mark": MARKS[claim["verdict"]], "effect": effect.replace("-", "−")}
            row["cells"][folder] = claim | cell
    return list(rows.values())


def build(books: Sequence[Path], figures: Path, out: Path) -> Path:
    """Write the site and return its start page, `out/index.html`.

    Args:
        books: executed notebooks, in the order of the index.
        figures: folder of the results; each `NAME-full/claims.json` there is a column of the
            ledger, and its picture of convergence is shown.
        out: output folder; made, and overwritten page by page.
    """
    pages = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
    exporter = HTMLExporter(
        extra_template_basedirs=[str(HERE)],
        template_file=str(HERE / "cells.html.j2"),
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        filters={"markdown2html": render},
    )
    folders = [file.parent for file in sorted(figures.glob("*-full/claims.json"))]
    folders.sort(key=lambda folder: folder.name != "kanji-full")
    out.mkdir(parents=True, exist_ok=True)
    style = (HERE / "site.css").read_text(encoding="utf-8") + HtmlFormatter().get_style_defs(
        ".highlight"
    )
    (out / "site.css").write_text(style, encoding="utf-8")
    made = [page(path, exporter, {book.stem for book in books}) for path in books]
    pictures = {}
    for folder in folders:
        if (picture := folder / "03_convergence-samples.png").exists():
            pictures[folder] = f"{folder.name}-convergence.png"
            shutil.copy(picture, out / pictures[folder])
    for i, this in enumerate(made):
        near = {"before": made[i - 1] if i else None, "after": dict(enumerate(made)).get(i + 1)}
        text = pages.get_template("notebook.html.j2").render(this | near)
        (out / f"{this['name']}.html").write_text(text, encoding="utf-8")
    editions = [
        json.loads((folder / "claims.json").read_text(encoding="utf-8")).get("edition", 1)
        for folder in folders
    ]
    text = pages.get_template("index.html.j2").render(
        pages=made, folders=folders, rows=ledger(folders), pictures=pictures, editions=editions
    )
    (out / "index.html").write_text(text, encoding="utf-8")
    return out / "index.html"
