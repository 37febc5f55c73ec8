"""What a browser would load from other hosts while it shows the site. A link that a reader follows is none of it."""

import re
from html.parser import HTMLParser
from pathlib import Path

_LOADS = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("img", "srcset"),
    ("iframe", "src"),
    ("embed", "src"),
    ("object", "data"),
    ("source", "src"),
    ("source", "srcset"),
    ("video", "src"),
    ("video", "poster"),
    ("audio", "src"),
    ("image", "href"),
    ("use", "href"),
    ("form", "action"),
}
_LOADS_NOTHING = {"canonical", "prev", "next", "search", "license", "author", "index"}
_ELSEWHERE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
_IN_CSS = re.compile(r"(?:url\(\s*|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)", re.IGNORECASE)


def foreign_requests(folder: Path) -> list[str]:
    """Return one line per request to a different host, in the pages and style sheets below a folder."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".html":
            found += [f"{name}: {what}" for what in requests_of_page(path.read_text(encoding="utf-8"))]
        elif path.suffix == ".css":
            found += [f"{name}: {address}" for address in _IN_CSS.findall(path.read_text(encoding="utf-8"))]
    return found


def requests_of_page(text: str) -> list[str]:
    """Return what a page loads from a different host, as 'tag attribute address'."""
    parser = _Loads()
    parser.feed(text)
    return parser.found


class _Loads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._style = tag == "style"
        values = {name.removeprefix("xlink:"): value or "" for name, value in attrs}
        if tag == "link" and values.get("rel", "").lower() in _LOADS_NOTHING:
            return
        for name, value in values.items():
            if (tag, name) in _LOADS and _ELSEWHERE.match(value):
                self.found.append(f"{tag} {name} {value}")
        self.found += [f"{tag} style {address}" for address in _IN_CSS.findall(values.get("style", ""))]

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        if self._style:
            self.found += [f"style {address}" for address in _IN_CSS.findall(data)]
