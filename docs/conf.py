"""The documentation's settings for Sphinx."""

import re
from importlib.metadata import version as installed_version

from docutils import nodes
from sphinx.application import Sphinx

project = "convlstm"
author = "The convlstm authors"
copyright = author
release = version = installed_version("convlstm")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # a test executes the notebook; its outputs are stored
nb_merge_streams = True

autodoc_typehints = "description"  # types stand beside the arguments that a docstring describes
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False
default_role = "py:obj"  # `name` in a docstring links to what has that name, and is code where nothing has
napoleon_custom_sections = [
    ("Inputs", "params_style"),
    ("Outputs", "params_style"),
    ("Attributes", "Args"),  # a dataclass's fields, which are its arguments
]
python_display_short_literal_types = True
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "convlstm"
html_static_path = ["_static"]
html_css_files = ["site.css"]


def shorten_array_types(app: Sphinx, domain: str, kind: str, content: nodes.Element) -> None:
    """Show the type NDArray[np.uint8] as ndarray[uint8], without the shape that it leaves open."""
    for text in list(content.findall(nodes.Text)):
        short = re.sub(r"\[tuple\[\S*Any, \S*\], \S*dtype\[[~\w.]*?(\w+)\]\]", r"[\1]", text)
        short = re.sub(r"\[_ScalarT\]|(?<=ndarray)\[Any\]", "", short)
        if short != text:
            text.parent.replace(text, nodes.Text(short))


def setup(app: Sphinx) -> None:
    """Shorten types once autodoc, at priority 500, has put them beside the arguments."""
    app.connect("object-description-transform", shorten_array_types, priority=600)
