"""A report as one HTML file that needs nothing besides: sections of charts, tables and words."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root{--ink:#1c2330;--paper:#fbfbf9;--line:#d9dce2;--soft:#5c6675}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ec;--paper:#14171c;--line:#333a45;--soft:#9aa4b2}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;padding:24px}
body{max-width:1360px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:0 0 8px}p{margin:0 0 8px;color:var(--soft)}
main{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr));gap:20px}
section{border:1px solid var(--line);border-radius:8px;padding:16px;overflow-x:auto}
svg{width:100%;height:auto;color:var(--ink)}svg text{font-size:11px;fill:var(--soft)}
.grid{stroke:var(--line)}.mark{stroke:var(--ink);stroke-dasharray:4 4}.whisker{stroke:var(--ink);stroke-width:1.5}
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;list-style:none;margin:6px 0 0;padding:0}
.legend{font-size:12px;color:var(--soft)}
.legend span{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px}
table{border-collapse:collapse;font-size:13px;width:100%}td,th{padding:3px 8px;border-bottom:1px solid var(--line)}
td,th{text-align:right}td:first-child,th:first-child{text-align:left}
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, words below it, and ready HTML: a chart or a table."""

    title: str
    words: str
    html: str


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as HTML."""
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def page(title: str, words: str, sections: Sequence[Section]) -> str:
    """The whole document."""
    shown = "".join(
        f"<section><h2>{escape(each.title)}</h2><p>{escape(each.words)}</p>{each.html}</section>"
        for each in sections
        if each.html
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><p>{escape(words)}</p><main>{shown}</main></body></html>\n"
    )
