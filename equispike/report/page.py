"""The page itself: one HTML file that needs nothing else."""

import json
import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from equispike.files.disk import write_bytes
from equispike.report.data import Page, page_data, trusting
from equispike.report.read import read_runs

LARGEST_PAGE = 2_000_000
"""Bytes of a page. Examples of the last runs are left out first, and the page says so."""


def write_report(runs: Sequence[Path], out: Path) -> int:
    """Write the page of these run files, atomically.

    Args:
        runs: files from ``equispike evaluate --json`` or ``equispike sweep``, or folders from ``equispike demo``.
        out: the HTML file.
    Returns:
        number of runs on the page.
    Raises:
        FileError: a file cannot be used, or the page cannot be written.
    """
    data = page_data(read_runs(runs))
    with trusting(runs[0] if len(runs) == 1 else "runs"):
        page = render(data)
    for run in reversed(data["runs"]):
        if len(page) <= LARGEST_PAGE:
            break
        run["examples"], run["examples_left_out"] = [], True
        page = render(data)
    write_bytes(out, page)
    return len(data["runs"])


def render(data: Page) -> bytes:
    """The page of this data, UTF-8."""
    title = _title(data["runs"])
    parts = {
        "title": escape(title),
        "style": _file("page.css"),
        "data": in_script(data),
        "script": "\n".join(_file(name) for name in ("charts.js", "tables.js", "page.js")),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _file("page.html")).encode()


def in_script(data: Any) -> str:
    """JSON that can stand in an HTML script element: nothing in it can end the element or open a comment.

    >>> in_script({"name": "</script>"})
    '{"name":"\\\\u003c/script>"}'
    """
    return json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _title(runs: Sequence[dict[str, Any]]) -> str:
    networks = list(dict.fromkeys(run["network"] for run in runs))
    return f"{', '.join(networks[:3])}{' and others' if len(networks) > 3 else ''} as spikes"


def _file(name: str) -> str:
    return resources.files("equispike.report").joinpath(name).read_text(encoding="utf-8")
