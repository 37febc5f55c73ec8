"""A notebook with its outputs as a page of the site, still as a notebook, which MyST-NB reads.

What is folded in JupyterLab is folded here. Errors are folded too: on the site, most of them are exercises that nobody
has solved yet. A widget needs a kernel, so its static form stands alone.
"""

import html
import re
from collections.abc import Collection

from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_output

from torchcourse.live import VIEW
from torchcourse.tools.build.hosts import badges
from torchcourse.tools.site.links import mend_hrefs, mend_links

READING = (
    "This page shows the notebook as a learner gets it, run once with nothing solved. So exercises are open, and where "
    "one stops with an error, the error is folded. To answer, to predict and to be checked, open the notebook."
)

FRAME = (
    "Here the notebook shows the page of a server that runs beside its kernel, such as TensorBoard. This page cannot; "
    "below are the last values, if there are any."
)

_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_STYLE = re.compile(r"<style>.*?</style>", re.DOTALL)
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


def lesson_page(notebook: NotebookNode, path: str, pages: Collection[str], repository: str) -> NotebookNode:
    """Turn an executed notebook into its page, in place, and return it.

    Args:
        path: of the notebook in the repository. pages: the paths of all pages of the site.
    """
    styles: set[str] = set()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = mend_links(cell.source, path, pages, repository)
            continue
        _fold(cell)
        cell.outputs = [_output(output, styles, path, pages) for output in cell.outputs if _shows(output)]
    head = notebook.cells[0]
    title, _, rest = head.source.partition("\n")
    # Where the course is published, the notebook has its links to Colab and Kaggle below its title already.
    head.source = f"{title}\n\n{to_open(path)}\n\n{rest.strip()}\n\n<p class='tc-note'>{READING}</p>"
    return notebook


def to_open(path: str, repository: str = "") -> str:
    """Return the line that gives the notebook itself, which lies beside its page, and opens it on Colab and Kaggle.

    Args:
        repository: where the course is published; without it there are no links to these hosts.
    """
    name = path.rpartition("/")[2]
    hosts = f"\n\n{badges(repository, path)}" if repository else ""
    return f'<p class="tc-open"><a href="{name}" download>Download this notebook</a></p>{hosts}'


def _fold(cell: NotebookNode) -> None:
    """Fold a cell that the notebook folds, under the title that it has there."""
    if not cell.metadata.get("jupyter", {}).get("source_hidden"):
        return
    first, _, rest = cell.source.partition("\n")
    title = first.removeprefix("# @title ") if first.startswith("# @title ") else "Show the code"
    cell.source = rest if first.startswith("# @title ") else cell.source
    cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
    prompts = {"code_prompt_show": f"{title} · show the code", "code_prompt_hide": f"{title} · hide the code"}
    cell.metadata["mystnb"] = prompts


def _shows(output: NotebookNode) -> bool:
    """Whether an output is more than the place of a widget, whose static form is the output after it."""
    return VIEW not in output.get("data", {}) or any(
        text for kind, text in output.data.items() if kind not in (VIEW, "text/plain")
    )


def _output(output: NotebookNode, styles: set[str], path: str, pages: Collection[str]) -> NotebookNode:
    if output.output_type == "error":
        return _folded_error(output)
    data = output.get("data", {})
    data.pop(VIEW, None)
    if "<iframe" in data.get("text/html", ""):
        data["text/html"] = f"<p class='tc-note'>{FRAME}</p>{''.join(_TABLE.findall(data['text/html']))}"
    if "text/html" in data:
        data["text/html"] = mend_hrefs(_each_style_once(data["text/html"], styles), path, pages)
    if "text/markdown" in data:  # in whose place within a page Sphinx takes no line of Markdown's own
        data["text/markdown"] = re.sub("^---$", "<hr>", data["text/markdown"], flags=re.MULTILINE)
    return output


def _folded_error(output: NotebookNode) -> NotebookNode:
    summary = html.escape(f"{output.ename}: {output.evalue}".strip().splitlines()[0])
    trace = html.escape(_COLOR.sub("", "\n".join(output.traceback)))
    folded = f"<details class='tc-error'><summary>{summary}</summary><pre tabindex='0'>{trace}</pre></details>"
    plain = f"{output.ename}: {output.evalue}"
    return new_output("display_data", data={"text/html": folded, "text/plain": plain})


def _each_style_once(text: str, seen: set[str]) -> str:
    """Return HTML without the style rules that the page has already, and without those that hide static forms."""

    def kept(style: re.Match[str]) -> str:
        if style[0] in seen or ".tc-live" in style[0]:
            return ""
        seen.add(style[0])
        return style[0]

    return _STYLE.sub(kept, text)
