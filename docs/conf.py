"""The documentation's settings for Sphinx."""

from importlib.metadata import version as installed_version

project = "convlstm"
author = "The convlstm authors"
copyright = "the convlstm authors"
release = version = installed_version("convlstm")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx"]
intersphinx_mapping: dict[str, tuple[str, None]] = {}
exclude_patterns = ["measured/*"]  # fragments, included by pages
myst_enable_extensions = ["colon_fence", "dollarmath", "substitution"]
myst_heading_anchors = 3
nb_execution_mode = "off"
html_theme = "furo"
html_title = "convlstm"
html_static_path = ["_static"]
