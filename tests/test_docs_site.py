"""The pages of the documentation fetch nothing from other hosts: they can be read without a network."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[1]
FETCHED = {
    ("link", "href"),
    *((tag, "src") for tag in ("script", "img", "iframe", "video", "audio", "source")),
}
STYLED = re.compile(r"@import[^;]*|url\([^)]*\)")


class Fetches(HTMLParser):
    """Addresses that a browser fetches for a page, without a click."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("rel") != "canonical":
            self.found += [str(value) for key, value in attrs if (tag, key) in FETCHED]


def foreign(address: str) -> bool:
    return re.match(r"(\w+:)?//", address.strip("'\" ")) is not None and not address.startswith("data:")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A site of one page by the project's own settings; all pages share its theme."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "in").mkdir()
    (folder / "in" / "index.md").write_text("# One\n\n```python\nprint('x')\n```\n\n```bash\nls\n```\n")
    for style in ("highlight.css", "site.css"):
        (folder / "in" / style).write_text((ROOT / "docs" / style).read_text())
    settings = {
        "docs_dir": str(folder / "in"),
        "site_dir": str(folder / "out"),
        "nav": [{"Home": "index.md"}],
        "strict": False,
        "plugins": ["search"],
    }
    build(load_config(str(ROOT / "mkdocs.yml"), **settings))
    return folder / "out"


def test_no_page_fetches_from_another_host(site):
    pages = sorted(site.rglob("*.html"))
    assert pages
    for page in pages:
        reader = Fetches()
        reader.feed(page.read_text(encoding="utf-8"))
        assert reader.found
        assert [address for address in reader.found if foreign(address)] == [], page
    for style in site.rglob("*.css"):
        parts = [re.sub(r"^(url\(|@import *)|\)$", "", part) for part in STYLED.findall(style.read_text())]
        assert [part for part in parts if foreign(part)] == [], style


def test_code_is_coloured_without_a_script(site):
    page = (site / "index.html").read_text()
    assert '<span class="nb">print</span>' in page
    assert ".highlight .nb" in (site / "highlight.css").read_text()
    assert "highlight.css" in page


def test_the_written_pages_show_no_picture_of_another_host():
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"!\[[^]]*\]\((\w+:)?//|<(img|script|link|iframe)[^>]*(\w+:)?//", text), page
