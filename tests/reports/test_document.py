"""Documents: what is hostile stays text, and every tag is closed."""

import io

import numpy as np
import pytest
from PIL import Image

from capsjax.reports import document
from capsjax.reports.document import (
    Details,
    Facts,
    Gallery,
    Heading,
    Notes,
    Paragraph,
    Picture,
    Preformatted,
    Table,
)
from tests.reports.page import Page

HOSTILE = "<script>alert('1')</script> & \"q\" | `x` \x00 \ud800 *b*"


def png(side: int = 2) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(file, "png")
    return file.getvalue()


def every_block(text: str) -> list[document.Block]:
    picture = Picture(f"{text}.png", text, png())
    return [
        Heading(text),
        Heading(text),
        Paragraph(text),
        Notes(text, [text]),
        Facts([(text, text)]),
        Table([text, "number"], [[text, "1"]], frozenset({1})),
        picture,
        Details(text, [Heading(text, 4), Preformatted(text), Gallery([picture])]),
    ]


def test_hostile_text_stays_text():
    text = document.to_html(HOSTILE, every_block(HOSTILE))
    page = Page(text)
    assert "script" not in page.tags
    shown = HOSTILE.replace("\x00", "\N{REPLACEMENT CHARACTER}").replace("\ud800", "?")
    # Title and headline; two headings and the links to them; in the other blocks 1, 2,
    # 2, 2, 1, and 4 in what unfolds.
    assert sum(found.strip() == shown for found in page.texts) == 2 + 4 + 8 + 4
    assert len(page.images) == 2
    text.encode()


def test_links_lead_to_the_sections():
    page = Page(document.to_html("title", every_block("same")))
    assert [link[1:] for link in page.links] == page.ids
    assert len(set(page.ids)) == 2


def test_markdown_has_no_markup_of_the_text():
    text, files = document.to_markdown(HOSTILE, every_block(HOSTILE), "my figures")
    assert len(files) == 2
    assert all(content == png() for content in files.values())
    for name in files:
        assert f"](my%20figures/{name})" in text
    outside, _, rest = text.partition("```text\n")
    assert "<script" not in outside
    assert "<script" not in rest.partition("\n```")[2]
    (row,) = (line for line in text.splitlines() if line.endswith("| 1 |"))
    assert row.replace(r"\|", "").count("|") == 3
    assert "| --: |" in text


def test_a_fence_is_longer_than_those_in_it():
    text, _ = document.to_markdown("t", [Preformatted("a\n````\nb\n")], "f")
    assert "`````text\na\n````\nb\n`````" in text


@pytest.mark.parametrize("content", [b"", b"text", png()[:-20], png()[:40]])
def test_what_is_no_png(content):
    assert document.is_png(png())
    assert not document.is_png(content)
