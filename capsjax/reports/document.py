"""A document of headings, tables and figures, as one HTML page and as Markdown."""

import base64
import dataclasses
import functools
import html
import io
import re
import urllib.parse
from collections.abc import Sequence

from PIL import Image

# Stands in what is written here, and in nothing that a person has written.
MARK = "made by capsjax.reports.document"


@dataclasses.dataclass(frozen=True)
class Heading:
    """Level 2 begins a section, 3 and 4 its parts; 1 is the title's."""

    text: str
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclasses.dataclass(frozen=True)
class Notes:
    """What must not be overlooked."""

    title: str
    notes: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names and what they stand for."""

    facts: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells, under a header of as many.

    Attributes:
        header: names of the columns.
        rows: their cells.
        numeric: the columns that are aligned right, by their index.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class Preformatted:
    """Text whose lines stay as they are."""

    text: str


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG image.

    Attributes:
        name: of its file beside the Markdown; made unique there.
        caption: below it.
        png: the file's bytes.
    """

    name: str
    caption: str
    png: bytes

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        with Image.open(io.BytesIO(self.png)) as image:
            return image.size

    @property
    def is_wide(self) -> bool:
        """Whether it would be too low beside another."""
        return self.size[0] > 2 * self.size[1]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures side by side where there is room."""

    pictures: Sequence[Picture]


@dataclasses.dataclass(frozen=True)
class Details:
    """Blocks that show once their summary is clicked."""

    summary: str
    blocks: Sequence["Block"]


Block = (
    Heading
    | Paragraph
    | Notes
    | Facts
    | Table
    | Preformatted
    | Picture
    | Gallery
    | Details
)


def is_png(content: bytes) -> bool:
    """Whether these are the bytes of a whole PNG image."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
    return True


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """One page that needs nothing else: pictures and style are in it."""
    links: list[str] = []
    body: list[str] = []
    for block in blocks:
        if isinstance(block, Heading) and block.level == 2:
            name, text = f"section-{len(links) + 1}", _escape(block.text)
            links.append(f'<a href="#{name}">{text}</a>')
            body.append(f'<h2 id="{name}">{text}</h2>')
        else:
            body.append(_html(block))
    links_text, body_text = "\n".join(links), "\n".join(body)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="{MARK}">
<title>{_escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{_escape(title)}</h1>
<nav aria-label="Sections">
{links_text}
</nav>
</header>
<main>
{body_text}
</main>
</body>
</html>
"""


def to_markdown(
    title: str, blocks: Sequence[Block], folder: str
) -> tuple[str, dict[str, bytes]]:
    """The text, and its pictures by the names that it gives them.

    Args:
        title: the text's.
        blocks: its content.
        folder: where the pictures will lie, relative to the text.
    """
    files: dict[str, bytes] = {}

    def picture(block: Picture) -> str:
        stem, count = _slug(block.name.removesuffix(".png")), 1
        name = f"{stem}.png"
        while name in files:
            count += 1
            name = f"{stem}-{count}.png"
        files[name] = block.png
        link = urllib.parse.quote(f"{folder}/{name}")
        caption = _markdown_text(block.caption)
        return f"![{caption}]({link})\n\n{caption}"

    def text_of(block: Block) -> str:
        match block:
            case Heading():
                return f"{'#' * block.level} {_markdown_text(block.text)}"
            case Paragraph():
                return _markdown_text(block.text)
            case Notes():
                lines = [f"**{_markdown_text(block.title)}**", ""]
                lines += [f"- {_markdown_text(note)}" for note in block.notes]
                return "\n".join(f"> {line}".rstrip() for line in lines)
            case Facts():
                return "\n".join(
                    f"- {_markdown_text(name)}: {_markdown_text(value)}"
                    for name, value in block.facts
                )
            case Table():
                dashes = [
                    "--:" if index in block.numeric else "--"
                    for index in range(len(block.header))
                ]
                cells = [
                    [_markdown_text(cell) for cell in row]
                    for row in (block.header, *block.rows)
                ]
                rows = [cells[0], dashes, *cells[1:]]
                return "\n".join(f"| {' | '.join(row)} |" for row in rows)
            case Preformatted():
                runs = re.findall("`+", block.text)
                fence = "`" * max(3, 1 + max(map(len, runs), default=0))
                return f"{fence}text\n{_clean(block.text).rstrip()}\n{fence}"
            case Picture():
                return picture(block)
            case Gallery():
                return "\n\n".join(picture(member) for member in block.pictures)
            case Details():
                inner = "\n\n".join(text_of(member) for member in block.blocks)
                summary = _escape(block.summary).replace("\n", " ")
                return (
                    f"<details>\n<summary>{summary}</summary>\n\n{inner}\n\n</details>"
                )

    content = [f"<!-- {MARK} -->", f"# {_markdown_text(title)}", *map(text_of, blocks)]
    return "\n\n".join(content) + "\n", files


def _html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{_escape(block.text)}</h{block.level}>"
        case Paragraph():
            return f"<p>{_escape(block.text)}</p>"
        case Notes():
            notes = "\n".join(f"<li>{_escape(note)}</li>" for note in block.notes)
            return (
                f'<aside class="notes">\n<p><strong>{_escape(block.title)}</strong>'
                f"</p>\n<ul>\n{notes}\n</ul>\n</aside>"
            )
        case Facts():
            facts = "\n".join(
                f"<div><dt>{_escape(name)}</dt><dd>{_escape(value)}</dd></div>"
                for name, value in block.facts
            )
            return f"<dl>\n{facts}\n</dl>"
        case Table():
            return _html_table(block)
        case Preformatted():
            return f"<pre>{_escape(block.text)}</pre>"
        case Picture():
            return _html_picture(block)
        case Gallery():
            members = "\n".join(map(_html_picture, block.pictures))
            return f'<div class="gallery">\n{members}\n</div>'
        case Details():
            inner = "\n".join(map(_html, block.blocks))
            return (
                f"<details>\n<summary>{_escape(block.summary)}</summary>\n"
                f'<div class="inner">\n{inner}\n</div>\n</details>'
            )


def _html_table(table: Table) -> str:
    def cells(tag: str, row: Sequence[str], attribute: str = "") -> str:
        return "".join(
            f"<{tag}{attribute}{' class="number"' if index in table.numeric else ''}>"
            f"{_escape(cell)}</{tag}>"
            for index, cell in enumerate(row)
        )

    rows = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    return (
        '<div class="scroll" tabindex="0">\n<table>\n'
        f"<thead><tr>{cells('th', table.header, ' scope="col"')}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _html_picture(picture: Picture) -> str:
    width, height = picture.size
    shape = ' class="wide"' if picture.is_wide else ""
    data = base64.b64encode(picture.png).decode()
    caption = _escape(picture.caption)
    return (
        f'<figure{shape}>\n<img alt="{caption}" width="{width}" height="{height}" '
        f'loading="lazy" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )


def _escape(text: str) -> str:
    return html.escape(_clean(text), quote=True)


def _markdown_text(text: str) -> str:
    """Text in which nothing is markup, on one line."""
    text = html.escape(" ".join(_clean(text).split()), quote=False)
    text = re.sub(r"([\\`*|\[\]])", r"\\\1", text)
    return re.sub(r"^([#>+-]|\d+[.)])(?=\s)", r"\\\1", text)


def _clean(text: str) -> str:
    """Text without what no file in UTF-8 or no page may hold."""
    text = text.replace("\r\n", "\n").encode("utf-8", "replace").decode()
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def _slug(text: str) -> str:
    """Text as a part of file names."""
    return re.sub(r"[^a-z0-9_.-]+", "-", text.lower()).strip("-.") or "unnamed"


_STYLE = """
:root {
  --text: #1f2430; --muted: #5c6675; --line: #dde2e9; --page: #ffffff;
  --panel: #f5f7fa; --link: #0b5cad; --warn: #fff4d6; --warn-line: #d9a116;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e4e7ec; --muted: #9aa5b4; --line: #333b47; --page: #14181e;
    --panel: #1c222b; --link: #7db7f5; --warn: #33290f; --warn-line: #d9a116;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem clamp(0.9rem, 4vw, 3rem) 5rem; max-width: 78rem;
  background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { margin: 0 0 0.6rem; font-size: 1.9rem; line-height: 1.2; }
h2 {
  margin: 2.8rem 0 0.9rem; padding-bottom: 0.3rem; font-size: 1.35rem;
  border-bottom: 1px solid var(--line);
}
h3 { margin: 2rem 0 0.7rem; font-size: 1.05rem; }
h1, h2, h3, p, dd, li, summary, figcaption { overflow-wrap: anywhere; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; margin-bottom: 1.4rem; }
p { max-width: 48rem; }
dl { margin: 0.8rem 0; }
dl div { display: grid; grid-template-columns: 16rem 1fr; gap: 0 1rem; }
dt { color: var(--muted); overflow-wrap: anywhere; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
.notes {
  margin: 1.4rem 0; padding: 0.2rem 1.2rem; background: var(--warn);
  border-left: 4px solid var(--warn-line); border-radius: 4px;
}
.notes ul { padding-left: 1.2rem; }
.notes li { margin: 0.3rem 0; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td {
  padding: 0.4rem 0.9rem; text-align: left; vertical-align: baseline;
  white-space: nowrap; border-bottom: 1px solid var(--line);
}
th { font-weight: 600; color: var(--muted); font-size: 0.9rem; }
thead th { border-bottom: 2px solid var(--line); }
th.number, td.number { text-align: right; }
tbody tr:hover { background: var(--panel); }
pre {
  margin: 0.8rem 0; padding: 0.8rem 1rem; overflow-x: auto; background: var(--panel);
  border-radius: 6px; font: 0.86rem/1.5 ui-monospace, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
figure { margin: 1.2rem 0; }
img {
  display: block; max-width: 100%; height: auto; background: #ffffff;
  border: 1px solid var(--line); border-radius: 6px;
}
figcaption { margin-top: 0.4rem; color: var(--muted); font-size: 0.9rem; }
.gallery {
  display: grid; gap: 0 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr));
}
.gallery .wide { grid-column: 1 / -1; }
details {
  margin: 0.5rem 0; border: 1px solid var(--line); border-radius: 6px;
}
summary { padding: 0.55rem 1rem; cursor: pointer; }
summary:hover { background: var(--panel); }
details[open] > summary { border-bottom: 1px solid var(--line); }
.inner { padding: 0.4rem 1rem 0.8rem; }
h4 { margin: 1.2rem 0 0.5rem; font-size: 1rem; }
@media (max-width: 40rem) {
  h1 { font-size: 1.5rem; }
  dl div { grid-template-columns: 1fr; margin-bottom: 0.5rem; }
  th, td { padding: 0.35rem 0.6rem; }
}
@media print { details { border: 0; } }
"""
