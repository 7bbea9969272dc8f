"""The settings of Sphinx: `python -m sphinx -W docs build/docs` writes the documentation."""

from importlib.metadata import version as installed_version

project = "brickyard"
author = "the brickyard developers"
project_copyright = f"2026, {author}"
release = version = installed_version("brickyard")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["build"]

html_theme = "furo"
html_title = "brickyard"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

default_role = "code"  # of `names` in docstrings

autodoc_inherit_docstrings = False  # those of Lightning and torch are written for their own documentation
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
