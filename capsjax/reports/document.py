"""Reports as Markdown, and the HTML pages made from it.

The Markdown is the template ``report.md.j2``; every value in it is escaped, so that no
text of a run is markup, neither in the Markdown nor on the page.
"""

import base64
import dataclasses
import html
import io
import itertools
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup
from PIL import Image
from tabulate import tabulate

from capsjax.reports.runs import unique, value_text, without_paths

# At the top of every report, and of no file written by hand.
_MARK = "made by capsjax.reports"
# The HTML in the template; any other HTML in the Markdown is text.
_OWN_HTML = re.compile(
    r'(<!--[^<>]*-->|</?(details|summary|figure|figcaption|div)( class="\w+")?>|[^<>])*'
)
# Such as "-1e-05", "1.25 ± 0.5", "1, 2", "3 of 5", "7 to 10", "20 so far" and "–".
_NUMBERS = re.compile("([-+–.,±e 0-9]|of|to|so far|nan|inf)*")  # noqa: RUF001


@dataclasses.dataclass
class Picture:
    """A PNG image.

    Attributes:
        name: file name beside the Markdown; made unique there.
        caption: text below the image.
        png: content of the file.
        size: width and height in pixels.

    Raises:
        ValueError: the content is not an intact PNG image.
    """

    name: str
    caption: str
    png: bytes
    size: tuple[int, int] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        try:
            with Image.open(io.BytesIO(self.png), formats=["PNG"]) as image:
                image.verify()
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:
            raise ValueError("not a PNG image, or damaged") from error
        self.size = image.size

    @property
    def is_wide(self) -> bool:
        """True if the image would be too low beside another."""
        return self.size[0] > 2 * self.size[1]


def is_report(text: str) -> bool:
    """True for the text of a report of any version, Markdown or HTML."""
    return "made by capsjax." in text[:1000]


def escape(value: object) -> Markup:
    """A value as one line of Markdown without markup."""
    if isinstance(value, Markup):
        return value
    text = html.escape(_one_line(value), quote=False)
    # An underscore inside a word is not markup: names stay legible.
    text = re.sub(r"[\\`*~|\[\]]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)
    return Markup(re.sub(r"^(\d*)([-+=#.)])(?=[-=#\s]|$)", r"\1\\\2", text))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A Markdown table, with columns of numbers aligned at the right."""
    columns = zip(*rows, strict=True) if rows else [("",)] * len(header)
    lines = tabulate(
        [list(map(escape, row)) for row in rows],
        list(map(escape, header)),
        tablefmt="pipe",
        colalign=[
            "right" if all(map(_NUMBERS.fullmatch, cells)) else "left"
            for cells in columns
        ],
        disable_numparse=True,
    )
    return Markup(lines)


def preformatted(text: str) -> Markup:
    """A code block; its fence is longer than any in the text."""
    text = _clean(text).rstrip()
    fence = "`" + max(["``", *re.findall("`+", text)], key=len)
    return Markup(f"{fence}text\n{text}\n{fence}")


def to_markdown(folder: str, **content: Any) -> tuple[str, dict[str, Picture]]:
    """The text, and its pictures by their file names.

    Args:
        folder: folder of the pictures, relative to the text.
        content: other variables of ``report.md.j2``.
    """
    pictures: dict[str, Picture] = {}

    def link(picture: Picture) -> Markup:
        stem = re.sub(r"[^a-z0-9_.-]+", "-", picture.name.lower().removesuffix(".png"))
        name = unique(stem.strip("-.") or "unnamed", pictures, ".png")
        pictures[name] = picture
        return Markup(urllib.parse.quote(f"{folder}/{name}"))

    template = _MARKDOWN.get_template("report.md.j2")
    return template.render(link=link, **content), pictures


def to_html(title: str, markdown: str, pictures: Mapping[str, Picture]) -> str:
    """An HTML page that holds its style and its pictures (by their file names)."""
    options = {"xhtmlOut": False}
    parser = MarkdownIt("commonmark", options, renderer_cls=_Renderer).enable("table")
    parser.disable(["html_inline", "link", "autolink"])
    env = {"pictures": pictures}
    tokens = parser.parse(markdown, env)
    sections: list[Markup] = []
    for token, text in itertools.pairwise(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            token.attrSet("id", f"section-{len(sections) + 1}")
            sections.append(Markup(parser.renderer.render([text], parser.options, env)))
    body = Markup(parser.renderer.render(tokens, parser.options, env))
    page = _PAGE.get_template("page.html.j2")
    return page.render(title=_one_line(title), sections=sections, body=body)


class _Renderer(RendererHTML):
    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        attrs = tokens[idx].attrs
        picture = env["pictures"][str(attrs["src"]).rpartition("/")[2]]
        attrs["src"] = f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
        attrs["width"], attrs["height"] = picture.size
        return super().image(tokens, idx, options, env)

    def table_open(self, *_: Any) -> str:
        # The keyboard scrolls what it can reach.
        return '<div class="table" tabindex="0">\n<table>\n'

    def table_close(self, *_: Any) -> str:
        return "</table>\n</div>\n"

    def html_block(self, tokens: Sequence[Token], idx: int, *_: Any) -> str:
        content = tokens[idx].content
        return content if _OWN_HTML.fullmatch(content) else html.escape(content)


def _one_line(value: object) -> str:
    text = value if isinstance(value, str) else value_text(value)
    return " ".join(_clean(text).split())


def _clean(text: str) -> str:
    """Text without paths, control characters and whatever UTF-8 cannot encode."""
    text = without_paths(text).replace("\r\n", "\n").encode("utf-8", "replace").decode()
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


_PAGE = jinja2.Environment(
    loader=jinja2.PackageLoader("capsjax.reports"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_PAGE.globals["mark"] = _MARK
# For values within HTML in the Markdown.
_PAGE.filters["html"] = lambda value: Markup(html.escape(_one_line(value), False))
_MARKDOWN = _PAGE.overlay(finalize=escape)
