"""The documentation as a site: `sphinx-build -W --keep-going docs FOLDER` (extra `docs`).

Nothing is fetched from elsewhere, neither to build nor to read it, and pages open from disk. With -W, a link
to a page or a heading that is not there is an error.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fastgd.version import __version__

project = "fastgd"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click", "docstrings", "reference", "links"]

# pages are Markdown as GitHub shows it; headings of three levels have anchors
myst_heading_anchors = 3
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
smartquotes = False  # 'nearest' is a string
highlight_language = "text"

autodoc_member_order = "bysource"
maximum_signature_line_length = 88
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"fastgd {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_search_summary = False  # it would be fetched, which pages from disk may not
html_show_sphinx = False
html_show_copyright = False
