"""Results as notebooks show them: short tables in HTML, and data frames."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from equispike.errors import extra


def html_table(caption: str, header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table as HTML; whatever a cell holds is shown as text.

    >>> html_table("a & b", ["x"], [[1]])
    '<table><caption>a &amp; b</caption><tr><th>x</th></tr><tr><td>1</td></tr></table>'
    """

    def line(cells: Iterable[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><caption>{escape(caption)}</caption>{line(header, 'th')}{body}</table>"


def frame(columns: Mapping[str, Sequence[Any]]) -> Any:
    """A pandas data frame of these columns. EquispikeError, with the remedy, where pandas is not installed."""
    return extra("pandas", "pandas", "data frames").DataFrame(dict(columns))
