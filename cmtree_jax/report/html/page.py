"""A page of its own: style, script and figures in one file, which asks no network.

Everything is a string of HTML that is made here or in a neighbour; text that others
wrote has been through `escape` before.
"""

import base64
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

from cmtree_jax.report.html import escape


class Section(NamedTuple):
  """A part of a page that its menu names."""

  name: str
  body: str


def page(
  title: str,
  lead: str,
  sections: Sequence[Section],
  figures: Mapping[str, Any] | None = None,
) -> str:
  """The whole page.

  Args:
    title: text.
    lead: HTML below the title.
    sections: in their order, with a menu where there are several.
    figures: what the places that `figure` makes are filled with, by their names; with
      any, plotly's script is written into the page.
  Raises:
    ImportError: there are figures, and plotly is not installed.
  """
  scripts = [_file("page.js")]
  if figures:
    scripts.insert(0, plotly())
  body = "\n".join(
    [
      *_head(title, sections),
      f"<main>\n<h1>{escape.text(title)}</h1>\n{lead}",
      *map(_section, sections),
      "</main>",
      '<script type="application/json" id="figures">'
      f"{escape.script_json(figures or {})}</script>",
      *(f"<script>{one}</script>" for one in scripts),
    ]
  )
  return _PAGE.format(
    policy=_policy(scripts, evaluates=bool(figures)),
    title=escape.text(title),
    style=_file("page.css"),
    body=body,
  )


def fragment(body: str) -> str:
  """HTML in the page's style, for a notebook; no script."""
  return f'<style>{_file("page.css")}</style><div class="cmtree">{body}</div>'


@functools.cache
def plotly() -> str:
  """Plotly's own script, whole.

  Raises:
    ImportError: it is not installed.
  """
  from plotly import offline

  # A script ends at the first such sign, even within a text of its own.
  return offline.get_plotlyjs().replace("</script", "<\\/script")


def _head(title: str, sections: Sequence[Section]) -> list[str]:
  links = [
    f'<li><a href="#{escape.identifier(one.name)}">{escape.text(one.name)}</a></li>'
    for one in sections
  ]
  menu = f'<nav aria-label="Sections"><ul>{"".join(links)}</ul></nav>'
  return [
    '<a class="skip" href="#content">Skip to the content</a>',
    '<header><span class="brand">cmtree_jax</span>',
    menu if len(links) > 1 else "",
    '<button type="button" id="theme" hidden>Theme: as the system</button>',
    '</header><span id="content"></span>',
  ]


def _section(one: Section) -> str:
  place = escape.identifier(one.name)
  return (
    f'<section id="{place}" aria-labelledby="{place}-title">\n'
    f'<h2 id="{place}-title">{escape.text(one.name)}</h2>\n{one.body}\n</section>'
  )


def _policy(scripts: Iterable[str], *, evaluates: bool) -> str:
  """What a browser may do on the page: run these scripts, and reach for nothing.

  Text that got past escaping would run nothing. Plotly compiles what it draws many
  points with, for which it needs unsafe-eval.
  """
  hashes = [
    base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()
    for one in scripts
  ]
  run = " ".join(f"'sha256-{one}'" for one in hashes)
  run += " 'unsafe-eval'" * evaluates
  return (
    f"default-src 'none'; script-src {run}; "
    "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
    "form-action 'none'"
  )


def paragraph(of_others: str, kind: str = "") -> str:
  """A sentence that is text."""
  attribute = f' class="{kind}"' if kind else ""
  return f"<p{attribute}>{escape.text(of_others)}</p>"


def table(
  columns: Sequence[str],
  rows: Iterable[Sequence[str]],
  *,
  caption: str = "",
) -> str:
  """Cells that are text; the first of a row is its name, the others are numbers."""

  def line(cells: Sequence[str]) -> str:
    first, *others = (escape.text(one) for one in cells)
    inside = "".join(f"<td>{one}</td>" for one in others)
    return f'<tr><th scope="row">{first}</th>{inside}</tr>'

  head = "".join(f'<th scope="col">{escape.text(one)}</th>' for one in columns)
  told = f"<caption>{escape.text(caption)}</caption>" if caption else ""
  return scrolled(
    "\n".join(
      [
        f"<table>{told}<thead><tr>{head}</tr></thead><tbody>",
        *map(line, rows),
        "</tbody></table>",
      ]
    ),
    caption or "Table",
  )


def scrolled(inside: str, name: str) -> str:
  """What may be wider than the screen; keys can scroll it."""
  return (
    f'<div class="scroll" tabindex="0" role="region" '
    f'aria-label="{escape.text(name)}">{inside}</div>'
  )


def cards(facts: Iterable[tuple[str, str]]) -> str:
  """Numbers that matter most: (name, number), text."""
  facts = list(facts)
  inside = "".join(
    f"<div><dt>{escape.text(name)}</dt><dd>{escape.text(value)}</dd></div>"
    for name, value in facts
  )
  # Two even rows of more than four.
  across = len(facts) if len(facts) <= 4 else (len(facts) + 1) // 2
  return f'<dl class="cards" style="--across:{max(across, 1)}">{inside}</dl>'


def bullets(lines: Iterable[str]) -> str:
  """Sentences that are text."""
  inside = "".join(f"<li>{escape.text(one)}</li>" for one in lines)
  return f"<ul>{inside}</ul>" if inside else ""


def document(told: str, text: str) -> str:
  """A document, and what is told of it below; both are text."""
  return (
    f'<div class="document"><bdi dir="auto">{escape.text(text)}</bdi>'
    f'<span class="of">{escape.text(told)}</span></div>'
  )


def fold(summary: str, inside: str) -> str:
  """HTML that is shown when a person asks for it; the summary is text."""
  return f"<details><summary>{escape.text(summary)}</summary>{inside}</details>"


def figure(name: str, *, told: str, height: int) -> str:
  """The place of a figure; what it shows in words is for those who cannot see it.

  Args:
    name: of the figure in the page.
    told: text.
    height: pixels.
  """
  return (
    f'<figure><div class="figure" data-figure="{escape.text(name)}" '
    f'style="height:{height}px" role="img" aria-label="{escape.text(told)}">'
    f"</div><figcaption>{escape.text(told)}</figcaption></figure>"
  )


@functools.cache
def _file(name: str) -> str:
  """One of the files that come with the package."""
  return (
    resources.files("cmtree_jax.report.html").joinpath(name).read_text("utf-8")
  )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body class="cmtree">
{body}
</body>
</html>
"""
