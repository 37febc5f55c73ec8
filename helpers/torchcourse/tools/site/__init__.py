"""The whole course as a static site: `python -m torchcourse.tools.site`, or `make site`.

execution         a release notebook with its outputs, run once and kept
explorer_picture  explorers as rows of pictures, which move without a kernel
lesson_pages      a notebook with its outputs as a page
question_pages    the questions of a bank, with each choice's explanation folded under it
api_pages         a page for each room of the package, made of its docstrings
links             links between the pages, and those that leave them
source_tree       all pages together, as Sphinx reads them
mathml            formulas that need no program in the browser
docstrings        docstrings as they are read in the source
requests          what the pages would load from elsewhere: nothing

Sphinx is configured by docs/site/conf.py.
"""

from torchcourse.tools.repository import ROOT

FOLDER = ROOT / "_site"
"""What is made, all of it. Git ignores it."""

HTML = FOLDER / "html"
CACHE = FOLDER / "cache"
"""The outputs of notebooks that ran."""
