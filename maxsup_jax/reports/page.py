"""One HTML file that needs no other: text, tables and figures."""

import html
import re
from collections.abc import Sequence

from maxsup_jax.reports import _style, blocks

_CSS = """
:root { color-scheme: light; --ink: #1a1a1a; --soft: #5c5c5c; --line: #d9d9d9 }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 58rem; padding: 1rem; color: var(--ink);
  background: #fff; font: 1rem/1.5 system-ui, sans-serif;
  overflow-wrap: break-word }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid var(--line) }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0;
  list-style: none }
a { color: #0058a3 }
.scroll { overflow-x: auto; margin: .8rem 0 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .92rem }
th, td { padding: .35rem .7rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap }
thead th { border-bottom: 2px solid var(--ink) }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: #fff; font-weight: 500; white-space: normal; min-width: 8.5rem }
.prose th:first-child { min-width: 15rem; max-width: none }
.prose td { white-space: normal }
small { display: block; color: var(--soft); font-size: .8rem }
.better { color: #00664b; font-weight: 600 }
.worse { color: #a33c00; font-weight: 600 }
.best { font-weight: 700; text-decoration: underline;
  text-underline-offset: .2em }
figure { margin: 1.2rem 0 }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto }
thead th { white-space: normal }
figcaption, .caption { color: var(--soft); font-size: .86rem;
  margin: .4rem 0 0 }
.note { border-left: 3px solid #999; padding-left: .8rem; color: var(--soft) }
footer { margin-top: 3rem; color: var(--soft); font-size: .86rem }
@media (max-width: 40rem) {
  body { padding: .6rem }
  th, td { padding: .3rem .45rem }
  th:first-child, td:first-child { min-width: 6.5rem; max-width: 9rem }
  /* Letters stay legible; wide figures scroll. */
  figure img { max-width: none; width: 34rem }
}
@media print {
  @page { margin: 1.5cm }
  html { font-size: 9.5pt }
  body { max-width: none; padding: 0 }
  nav { display: none }
  .scroll { overflow: visible }
  figure img { max-height: 20cm; width: auto }
  th, td { padding: .2rem .4rem; white-space: normal }
  .keep, figure, tr { break-inside: avoid }
}
"""


def render(
  title: str,
  subtitle: str,
  sections: Sequence[blocks.Section],
  figures: dict[str, bytes],
  footer: str,
) -> str:
  """The page as HTML without scripts, which loads nothing.

  `figures` are the SVGs by their names; the subtitle says what the data are,
  the footer what made the page.
  """
  links = ''.join(
    f'<li><a href="#{html.escape(s.name)}">{html.escape(s.title)}</a></li>'
    for s in sections
  )
  body = ''.join(_section(s, figures) for s in sections)
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    # Without it browsers ask for /favicon.ico.
    '<link rel="icon" href="data:,">\n'
    f'<title>{html.escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n'
    f'<body>\n<header>\n<h1>{html.escape(title)}</h1>\n'
    f'<p>{html.escape(subtitle)}</p>\n</header>\n'
    f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>\n{body}'
    f'</main>\n<footer><p>{html.escape(footer)}</p></footer>\n</body>\n</html>\n'
  )


def _section(section: blocks.Section, figures: dict[str, bytes]) -> str:
  parts = [_block(b, figures) for b in section.blocks]
  # On paper a heading stays with what follows.
  first = ''.join(parts[:1])
  return (
    f'<section id="{html.escape(section.name)}">\n<div class="keep">'
    f'<h2>{html.escape(section.title)}</h2>\n{first}</div>\n'
    f'{"".join(parts[1:])}</section>\n'
  )


def _block(block: blocks.Block, figures: dict[str, bytes]) -> str:
  match block:
    case blocks.Text():
      note = ' class="note"' if isinstance(block, blocks.Note) else ''
      return f'<p{note}>{html.escape(block.text)}</p>\n'
    case blocks.Table():
      return _table(block)
    case blocks.Figure():
      address = _style.data_address(figures[block.name])
      caption = html.escape(block.caption)
      return (
        f'<figure id="{html.escape(block.name)}">'
        f'<div class="scroll" tabindex="0"><img src="{address}" '
        f'alt="{caption}"></div>'
        f'<figcaption>{caption}</figcaption></figure>\n'
      )
  raise TypeError(f'no block: {block!r}')


def _table(table: blocks.Table) -> str:
  # Long names may be broken after a separator.
  head = ''.join(
    '<th scope="col">'
    + re.sub(r'([_/.-])', r'\1<wbr>', html.escape(c))
    + '</th>'
    for c in table.columns
  )
  rows = ''.join(
    '<tr>'
    + f'<th scope="row">{_cell(row[0])}</th>'
    + ''.join(f'<td>{_cell(c)}</td>' for c in row[1:])
    + '</tr>\n'
    for row in table.rows
  )
  kind = ' class="prose"' if table.prose else ''
  return (
    f'<div class="scroll" tabindex="0"><table{kind}>'
    f'<thead><tr>{head}</tr></thead>\n'
    f'<tbody>\n{rows}</tbody></table></div>\n'
    f'<p class="caption">{html.escape(table.caption)}</p>\n'
  )


def _cell(cell: str | blocks.Cell) -> str:
  if isinstance(cell, str):
    return html.escape(cell)
  value = html.escape(cell.value)
  if cell.best:
    value = f'<span class="best">{value}</span>'
  details = [html.escape(d) for d in cell.details]
  if cell.mark:
    # From the difference on, which the mark is about.
    for i in range([d[0] for d in details].index('Δ'), len(details)):
      details[i] = f'<span class="{cell.mark}">{details[i]}</span>'
  return value + ''.join(f'<small>{d}</small>' for d in details)
