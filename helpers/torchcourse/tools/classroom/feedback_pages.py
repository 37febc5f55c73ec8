"""nbgrader's feedback pages, in a moment: what most students' pages have in common is worked out once."""

import functools
import html
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

from jinja2 import pass_context
from nbconvert.exporters import HTMLExporter, TemplateExporter
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.widgetsdatatypefilter import WidgetsDataTypeFilter
from nbformat.notebooknode import NotebookNode
from nbgrader.converters import GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from torchcourse.tools.classroom import own_time
from torchcourse.tools.classroom.text_cache import remembered

MOST = 5.0
"""Seconds for all texts of one page, which take less than one; those left then are shown as they were typed."""
ALT = "No description has been provided for this image"  # as nbconvert says it


class FeedbackPages:
    """Makes nbgrader's feedback pages, with its steps and its template.

    Args:
        config: nbgrader's, of the course.
    """

    def __init__(self, config: Config) -> None:
        converter = GenerateFeedback(coursedir=CourseDirectory(config=config), config=config)
        self._exporter = _Exporter(config=converter.config)
        for step in converter.preprocessors:
            self._exporter.register_preprocessor(step)

    def page(self, notebook: NotebookNode, resources: dict[str, Any]) -> str:
        """Return the page of an autograded notebook, into which scores and comments are put.

        Args:
            notebook: as it was autograded.
            resources: whose and which it is, as nbgrader's steps take it.
        """
        return self._exporter.from_notebook_node(_Own(notebook), resources)[0]


class _Own(NotebookNode):
    """A notebook that needs no copy."""

    def __deepcopy__(self, _memo: Any) -> Self:
        return self


class _Exporter(HTMLExporter):
    """nbconvert's. That one checks a notebook after each step, and reads and writes each page once more.

    It does so for pictures without a description.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._html = remembered(lambda source: HTMLExporter.markdown2html(self, {}, source))
        self._left = MOST
        self._highlighting = functools.cache(self._highlighting_of)

    def from_notebook_node(  # type: ignore[override]  # as nbconvert's exporters of text do
        self, nb: NotebookNode, resources: Any = None, **named: Any
    ) -> tuple[str, dict[str, Any]]:
        language = nb.metadata.get("language_info", {})
        self.register_filter("highlight_code", self._highlighting(language.get("pygments_lexer", language.get("name"))))
        resources = self._init_resources(resources)
        self._left = MOST
        page, resources = TemplateExporter.from_notebook_node(self, nb, resources, **named)
        return _IMAGE.sub(_described, page), resources

    def _preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        for step in self._preprocessors:
            nb, resources = step(nb, resources)
        return nb, resources

    def default_filters(self) -> Iterator[tuple[str, Any]]:
        yield from super().default_filters()
        yield ("filter_data_type", WidgetsDataTypeFilter(notebook_metadata={}, parent=self))  # no widget lives there
        # Of links in notebooks that are older than any here; it takes hours for some texts.
        yield ("strip_files_prefix", lambda text: text)

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        if context.get("cell", {}).get("attachments"):
            return self._shown(source, lambda text: str(HTMLExporter.markdown2html(self, context, text)))
        return self._shown(source, self._html)

    def _shown(self, source: str, made: Callable[[str], str]) -> str:
        """Return what is made of a text, or the text as it was typed, where that fails or takes too long.

        A picture that was lost when a cell was copied fails, for one: this costs no student a grade.
        """
        begun = time.process_time()
        try:
            if self._left > 0:
                with own_time.limited(self._left):
                    return made(source)
        except own_time.TooLong:
            self._left = 0.0  # the timer counts by ticks, and may end a moment before the clock below says so
        except Exception:  # whatever a text can hold
            pass
        finally:
            self._left -= time.process_time() - begun
        return f'<div class="highlight"><pre>{html.escape(source)}</pre></div>'

    def _highlighting_of(self, lexer: str | None) -> Callable[..., str]:
        highlight = Highlight2HTML(pygments_lexer=lexer, parent=self)
        plain = remembered(highlight)

        def highlighted(source: str, language: str | None = None, metadata: Any = None) -> str:
            if language or "magics_language" in (metadata or {}):
                return self._shown(source, lambda text: str(highlight(text, language, metadata)))
            return self._shown(source, plain)

        return highlighted


_IMAGE = re.compile(r"""<img\b(?:[^>"']|"[^"]*"|'[^']*')*>""")


def _described(image: re.Match[str]) -> str:
    has = re.search(r"""\salt\b""", re.sub(r""""[^"]*"|'[^']*'""", "", image[0]))
    return image[0] if has else f'{image[0][:-1].rstrip("/ ")} alt="{ALT}"/>'
