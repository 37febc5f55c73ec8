"""How Sphinx makes the site of the course. `make site` writes the sources; TORCHCOURSE_SITE is the folder of both."""

import os
import warnings
from pathlib import Path

SITE = Path(os.environ["TORCHCOURSE_SITE"])
HERE = Path(__file__).parent

project = "PyTorch beyond one GPU"
author = "The authors of the course"
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
extensions += ["torchcourse.tools.site.mathml", "torchcourse.tools.site.docstrings"]
suppress_warnings = ["myst.header", "myst.xref_missing", "mystnb.unknown_mime_type", "misc.highlighting_failure"]
# A word between backticks may be the name of several things; then it is a word.
suppress_warnings += ["ref.python"]

# Notebooks come with their outputs. A widget would ask a different host for its program, so none is shown.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
nb_merge_streams = True
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "strikethrough"]
myst_heading_anchors = 3
# Sphinx asks for a renderer of formulas by name; MathJax would come from a different host.
html_math_renderer = "mathml"

# Docstrings have code between single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# A default as it is written: some are large tables.
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an attribute that is a property is described once more, at its place
warnings.filterwarnings("ignore", category=DeprecationWarning)

html_theme = "furo"
html_title = project
html_baseurl = ""
html_static_path = [str(HERE / "static")]
html_favicon = str(HERE / "static" / "icon.svg")
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_extra_path = [str(SITE / "downloads")]
html_use_index = False
html_domain_indices = False
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#005a8c", "color-brand-content": "#005a8c"},
    "dark_css_variables": {"color-brand-primary": "#7cc4f0", "color-brand-content": "#7cc4f0"},
}
