"""Documents: what is hostile stays text, and every tag is closed."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from capsjax.reports import document
from capsjax.reports.document import Picture
from tests.reports.page import Page

HOSTILE = [
    "<script>alert('1')</script> & \"q\" | `x` \\| \\",
    "*b* _i_ __init__ a_b ~~s~~ [l](http://x.org) ![i](x.png) <http://x.org>",
    "- item",
    "1. item",
    "# heading",
    "--- | ---",
    "===",
    "> quote",
    "```",
    "&lt;b&gt; &#60;",
    "[x]: http://x.org",
]


def png(side: int = 2) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    escaped = document.escape(text)
    blocks = [
        escaped,
        f"- {escaped}",
        f"> - **{escaped}**: 1",
        f"## {escaped}",
        document.table([text, "number"], [[text, "1"]]),
        document.preformatted(text),
        f"<details>\n<summary>\n\n{escaped}\n\n</summary>\n</details>",
    ]
    page = Page(document.to_html(text, "\n\n".join(blocks), {}))
    assert not page.tags & {"script", "em", "h1", "hr", "img", "s"}
    # One more each in the title of the page and in the link to the section.
    assert sum(found.strip() == text for found in page.texts) == 10
    assert page.rows == [[text, "number"], [text, "1"]]


def test_no_html_but_that_of_reports():
    text = "<script>\nalert(1)\n</script>\n\n<div onclick='x'>\n\na <b>b</b> [l](x)\n"
    page = Page(document.to_html("t", text, {}))
    assert not page.tags & {"script", "div", "b"}
    assert "alert(1)" in page.text


def test_what_no_file_may_hold_is_replaced():
    expected = "a\N{REPLACEMENT CHARACTER}b? c\N{REPLACEMENT CHARACTER}"
    assert document.escape("a\x00b\ud800\r\nc\x1b") == expected


def test_links_lead_to_the_sections():
    page = Page(document.to_html("title", "## same\n\n## same\n", {}))
    assert [link[1:] for link in page.links] == page.ids
    assert len(set(page.ids)) == 2


def test_columns_of_numbers_are_aligned_right():
    rows = [["a 1", "1", "\N{EN DASH}", "1.5 ± 0.25"], ["b", "10 to 20", "-1e-05", "2"]]
    table = document.table(["name", "range", "small", "mean"], rows)
    dashes = table.splitlines()[1].strip("|").split("|")
    assert [cell.endswith(":") for cell in dashes] == [False, True, True, True]


def test_a_fence_is_longer_than_those_in_it():
    block = document.preformatted("a\n````\nb\n")
    assert block == "`````text\na\n````\nb\n`````"


@pytest.mark.parametrize("content", [b"", b"text", png()[:-20], png()[:40]])
def test_what_is_not_a_png(content):
    assert Picture("a.png", "caption", png(3)).size == (3, 3)
    with pytest.raises(ValueError, match="not a PNG"):
        Picture("a.png", "caption", content)


def test_what_is_wide_scrolls_or_shrinks_within_the_page():
    """Tables scroll under a fixed first column; pictures shrink; long words break."""
    picture = Picture("a.png", "caption", png(3))
    table = document.table(["a" * 99] * 9, [["b" * 99] * 9])
    text = document.to_html("t", f"{table}\n\n![c](x/a.png)\n", {"a.png": picture})
    assert re.search(r'<div class="table" tabindex="0">\s*<table>', text)
    assert re.search(r"</table>\s*</div>", text)
    style = dict(re.findall(r"^([^{}\n]+) \{([^}]*)\}", text, re.MULTILINE))
    for selector, rules in {
        "body": ["overflow-wrap: anywhere"],
        ".table": ["max-width: 100%", "overflow-x: auto"],
        "th:first-child, td:first-child": ["position: sticky", "left: 0", "45vw"],
        "img": ["max-width: 100%", "height: auto"],
        "pre": ["white-space: pre-wrap"],
    }.items():
        assert all(rule in style[selector] for rule in rules), selector
    # Cells would be transparent, and show what scrolls below them.
    assert "background: var(--page)" in style["th:first-child, td:first-child"]
