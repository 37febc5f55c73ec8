"""Links on the pages of the site: what a file of the repository links to, as the site or the repository has it."""

import posixpath
import re
from collections.abc import Callable, Collection

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FOREIGN_IMAGE = re.compile(r"!\[([^\]]*)\]\([a-z]+:[^()\s]*\)")
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
START = "index.md"


def mend_links(text: str, page: str, pages: Collection[str], repository: str = "") -> str:
    """Return Markdown whose links lead somewhere from the site.

    A link to a page of the site stays. One to a different file leads to the published repository; where there is
    none, its words stay. An image from a different host becomes a link, so that a page asks nobody else.

    Args:
        page: the path of the Markdown in the repository. pages: the paths of all pages, as the site has them.
    """

    def mended(link: re.Match[str]) -> str:
        image, words, target = link.groups()
        words = _FOREIGN_IMAGE.sub(r"\1", words)  # a badge: an image as the words of a link
        if re.match(r"[a-z]+:", target):
            return f"[{words}]({target})"
        path, _, anchor = target.partition("#")
        found = resolve(path, page, pages) if path else page
        if found in pages:
            back = posixpath.relpath(found, posixpath.dirname(page)) if path else ""
            return f"{image}[{words}]({back}{'#' + anchor if anchor else ''})"
        return f"[{words}]({repository}/blob/main/{found})" if repository and not image else words

    return outside_code(text, lambda part: _LINK.sub(mended, part))


def resolve(target: str, page: str, pages: Collection[str]) -> str:
    """Return the path in the repository that a relative link means; that of the site's page where they differ."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
    if path.endswith("start.ipynb"):
        return START
    other = path.removesuffix(".ipynb") + ".md"
    return other if path not in pages and other in pages else path


def mend_hrefs(text: str, page: str, pages: Collection[str]) -> str:
    """Return HTML of an output whose links to notebooks lead to their pages; a link to nothing keeps its words."""

    def mended(link: re.Match[str]) -> str:
        target, words = link[1], link[2]
        if re.match(r"[a-z]+:|#", target):
            return link[0]
        path, _, _anchor = target.partition("#")
        found = resolve(path, page, pages)
        if found not in pages:
            return words
        back = posixpath.relpath(found, posixpath.dirname(page))
        return f'<a href="{posixpath.splitext(back)[0]}.html">{words}</a>'

    return re.sub(r'<a\b[^>]*?href="([^"]*)"[^>]*>(.*?)</a>', mended, text, flags=re.DOTALL)


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return Markdown with `change` applied to what is not code."""
    return "".join(part if place % 2 else change(part) for place, part in enumerate(_CODE.split(text)))
