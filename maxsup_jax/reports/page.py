"""One HTML file that needs no other: text, tables and figures."""

import html
import re
from collections.abc import Sequence

from maxsup_jax.reports import _style, blocks

# Of letters, on a white page and on a dark one; the figures' are in `_style`.
_LETTERS = {
  'soft': ('#5c5c5c', '#a8adb5'),
  'link': ('#0058a3', '#7db8ff'),
  'good': ('#00664b', '#5cc8a0'),
  'bad': ('#a33c00', '#ff9d6b'),
}
COLORS = {role: (light, dark) for light, (role, dark) in _style.THEME.items()}
COLORS |= _LETTERS

_CSS = """
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 78rem; padding: 1rem; color: var(--ink);
  background: var(--back); font: 1rem/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid var(--grid) }
p, .lead { max-width: 52rem }
header p { color: var(--soft); margin: .3rem 0 }
.lead { margin: 1rem 0; padding: .2rem 0 .2rem 1.1rem;
  border-left: 4px solid var(--link); list-style: none }
.lead li { margin: .45rem 0 }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0;
  list-style: none }
a, summary { color: var(--link) }
.scroll { overflow-x: auto; margin: 1rem 0 0; container-type: inline-size }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .92rem; min-width: 100%; overflow-wrap: break-word }
caption { text-align: left }
caption span { display: block; position: sticky; left: 0; width: fit-content;
  max-width: 100cqw }
caption, figcaption { font-weight: 600; font-size: .95rem; padding: .2rem 0 }
th, td { padding: .35rem .7rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--grid); white-space: nowrap }
thead th { border-bottom: 2px solid var(--ink); white-space: normal;
  min-width: 5.5rem; max-width: 14rem }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--back); font-weight: 500; white-space: normal;
  min-width: 8.5rem; max-width: 16rem }
.prose th:first-child { min-width: 15rem; max-width: none }
.prose td { white-space: normal }
th button { all: unset; cursor: pointer; text-decoration: underline dotted }
th button:focus-visible { outline: 2px solid var(--link) }
small { display: block; color: var(--soft); font-size: .8rem }
.better { color: var(--good); font-weight: 600 }
.worse { color: var(--bad); font-weight: 600 }
.best { font-weight: 700; text-decoration: underline;
  text-underline-offset: .2em }
figure { margin: 1.4rem 0 0 }
/* Letters have one size in all figures, and on a phone wide ones scroll. */
figure svg { display: block; width: 100%; margin: 0 auto;
  min-width: calc(34rem * var(--share)); max-width: calc(62rem * var(--share)) }
svg * { stroke-linejoin: round; stroke-linecap: butt }
details { color: var(--soft); font-size: .86rem; margin: .3rem 0 1rem;
  max-width: 48rem }
.note { border-left: 3px solid var(--soft); padding-left: .8rem;
  color: var(--soft) }
footer { margin-top: 3rem; color: var(--soft); font-size: .86rem }
@media (max-width: 40rem) {
  body { padding: .6rem }
  th, td { padding: .3rem .45rem }
  th:first-child, td:first-child { min-width: 6rem; max-width: 8rem }
  .prose th:first-child { min-width: 12rem }
}
@media print {
  @page { margin: 1.5cm }
  html { font-size: 9.5pt }
  body { max-width: none; padding: 0 }
  nav { display: none }
  .scroll { overflow: visible; container-type: normal }
  caption span { max-width: none }
  figure svg { max-height: 20cm; min-width: 0 }
  th, td { padding: .2rem .4rem; white-space: normal }
  .keep, figure, tr { break-inside: avoid }
  details::details-content { content-visibility: visible; block-size: auto }
}
"""


# The only script: without it the page is whole, but for the sorting.
SORT = """
for (const table of document.querySelectorAll('table.sortable')) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0]
  heads.forEach((head, i) => {
    const button = document.createElement('button')
    button.append(...head.childNodes)
    head.append(button)
    button.onclick = () => {
      const sign = head.ariaSort === 'ascending' ? -1 : 1
      for (const h of heads) h.ariaSort = null
      head.ariaSort = sign > 0 ? 'ascending' : 'descending'
      const key = row => row.cells[i].firstChild.textContent
      body.append(...[...body.rows].sort((a, b) => sign *
        key(a).localeCompare(key(b), 'en', {numeric: true})))
    }
  })
}
"""


def _style_sheet() -> str:
  """The rules, with the colours of a light page and, on screens, a dark one."""
  light, dark = (
    ';'.join(f'--{role}:{pair[i]}' for role, pair in COLORS.items())
    for i in (0, 1)
  )
  return (
    f':root{{color-scheme:light dark;{light}}}\n'
    f'@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}{_CSS}'
  )


def render(
  title: str,
  subtitle: str,
  sections: Sequence[blocks.Section],
  figures: dict[str, bytes],
  footer: str,
  lead: Sequence[str] = (),
) -> str:
  """The page as HTML, which loads nothing.

  `figures` are the SVGs by their names; the subtitle says what the data are,
  the lead what came out, the footer what made the page. A section without a
  block is left out.
  """
  sections = [s for s in sections if s.blocks]
  links = ''.join(
    f'<li><a href="#{html.escape(s.name)}">{html.escape(s.title)}</a></li>'
    for s in sections
  )
  body = ''.join(_section(s, figures) for s in sections)
  sortable = any(
    isinstance(b, blocks.Table) and b.sortable
    for s in sections
    for b in s.blocks
  )
  script = f'<script>{SORT}</script>\n' if sortable else ''
  told = ''.join(f'<li>{html.escape(sentence)}</li>' for sentence in lead)
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    # Without it browsers ask for /favicon.ico.
    '<link rel="icon" href="data:,">\n'
    f'<title>{html.escape(title)}</title>\n<style>{_style_sheet()}</style>\n'
    f'</head>\n<body>\n<header>\n<h1>{_broken(title)}</h1>\n'
    f'<p>{html.escape(subtitle)}</p>\n</header>\n'
    + (f'<ul class="lead">{told}</ul>\n' if told else '')
    + f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>\n{body}'
    f'</main>\n<footer><p>{html.escape(footer)}</p></footer>\n{script}</body>\n</html>\n'
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
      name, title = html.escape(block.name), html.escape(block.title)
      drawn = _style.inline(name, figures[block.name], block.alt)
      return (
        f'<figure id="{name}"><figcaption>{title}</figcaption>'
        f'<div class="scroll" tabindex="0" role="group" aria-label="{title}">'
        f'{drawn}</div></figure>\n{_details(block.caption)}'
      )
  raise TypeError(f'no block: {block!r}')


def _details(caption: str) -> str:
  """How to read something: there for who asks, and on paper."""
  return (
    '<details><summary>How to read it</summary>'
    f'{html.escape(caption)}</details>\n'
  )


def _table(table: blocks.Table) -> str:
  head = ''.join(f'<th scope="col">{_broken(c)}</th>' for c in table.columns)
  rows = ''.join(
    '<tr>'
    + f'<th scope="row">{_cell(row[0])}</th>'
    + ''.join(f'<td>{_cell(c)}</td>' for c in row[1:])
    + '</tr>\n'
    for row in table.rows
  )
  kinds = {'prose': table.prose, 'sortable': table.sortable}
  kind = ' '.join(name for name, holds in kinds.items() if holds)
  kind = f' class="{kind}"' if kind else ''
  title = html.escape(table.title)
  return (
    f'<div class="scroll" tabindex="0" role="group" aria-label="{title}">'
    f'<table{kind}><caption><span>{title}</span></caption>'
    f'<thead><tr>{head}</tr></thead>\n'
    f'<tbody>\n{rows}</tbody></table></div>\n{_details(table.caption)}'
  )


def _broken(text: str) -> str:
  """Text whose long names may be broken after a separator."""
  return re.sub(r'(?<=\w)([_/.-])(?=\w)', r'\1<wbr>', html.escape(text))


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
