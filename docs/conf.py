"""Sphinx settings. Build: sphinx-build -W -q -b html docs docs/_build/html"""

import re
import shutil
from importlib.metadata import version as installed
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.ext.autosummary import import_by_name

from equispike.report.bibliography import page as bibliography

project = "equispike"
author = "The equispike authors"
copyright = author
version = release = installed("equispike")

extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.viewcode",
    "sphinx.ext.intersphinx", "sphinx_copybutton",
]  # fmt: skip
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
suppress_warnings = ["ref.python"]  # fields of several classes have one name, and none is meant more
ELSEWHERE = {
    "python": "https://docs.python.org/3", "torch": "https://docs.pytorch.org/docs/stable",
    "numpy": "https://numpy.org/doc/stable",
}  # fmt: skip
# Without a network the second place is read, which knows no names: no links, and no warning either.
intersphinx_mapping = {name: (place, (None, "offline.inv")) for name, place in ELSEWHERE.items()}
intersphinx_timeout = 2
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["wide.css"]
exclude_patterns = ["_build", "tables"]
html_theme = "furo"
html_title = f"equispike {release}"
html_show_copyright = False
html_show_sphinx = False

myst_enable_extensions = ["dollarmath", "substitution"]
myst_heading_anchors = 3
picture = "![The demo: accuracy and spike rate against time-steps, one line per method](figures/demo.png)"
myst_substitutions = {
    "demo": picture if Path(__file__).with_name("figures").joinpath("demo.png").is_file() else "",
    "bibliography": bibliography(),
}

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Fields", "Attributes")]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
add_module_names = False


# Docstrings are written to be read in the source: (B, *features) and |x| stand there as they are. Between backquotes
# nothing is touched.
MARKS = re.compile(r"(`[^`]*`)|(?<![\w*])\*(?=\w+\b(?!\*))|\|")


def escape(app, what, name, obj, options, lines):
    """Escape what reStructuredText would take for emphasis or for a substitution, outside maths and examples."""
    verbatim = False
    for number, line in enumerate(lines):
        in_maths = verbatim and (not line.strip() or line.startswith("    "))
        verbatim = in_maths or line.lstrip().startswith(".. math::")
        if not verbatim and not line.lstrip().startswith(">>>"):
            lines[number] = MARKS.sub(lambda mark: mark[1] or "\\" + mark[0], line)
        if number and lines[number - 1].strip() == "Returns:":  # else napoleon takes words before a colon for a type
            lines[number] = re.sub(r"^(\s*)", r"\1: ", lines[number])


def readable(app, what, name, obj, options, signature, returned):
    """Defaults made by a factory as an ellipsis, which Sphinx can parse."""
    return (signature.replace("<factory>", "..."), returned) if signature else None


PAGE = """:orphan:

{name}
{line}

Back to the :doc:`list of all names <../reference>`.

.. auto{kind}:: {name}
{members}"""
MEMBERS = "   :members:\n   :special-members: __call__\n"


def one_page_each(app):
    """Write a page for every name that a table of the reference lists: in no contents list, which would be long."""
    folder = Path(app.srcdir, "api")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    reference = Path(app.srcdir, "reference.md").read_text(encoding="utf-8")
    for name in re.findall(r"^   (equispike\.\S+)$", reference, re.MULTILINE):
        kind, members = ("class", MEMBERS) if isinstance(import_by_name(name)[1], type) else ("function", "")
        text = PAGE.format(name=name, line="=" * len(name), kind=kind, members=members)
        (folder / f"{name}.rst").write_text(text, encoding="utf-8")


def formula(tag):
    """What writes a formula as MathML: browsers show it without a script, and without a network."""

    def visit(self, node):
        text = convert(node.astext().strip(), display="block" if tag == "div" else "inline")
        self.body.append(f'<{tag} class="math">{text}</{tag}>')
        raise nodes.SkipNode

    return visit, None


def setup(app):
    app.add_html_math_renderer("mathml", formula("span"), formula("div"))
    app.connect("builder-inited", one_page_each)
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon, at 500
    app.connect("autodoc-process-signature", readable)
