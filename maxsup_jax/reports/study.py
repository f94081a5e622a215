"""The page of a study: its verdicts, tables and figures, from its record."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from maxsup_jax import files
from maxsup_jax.reports import _style, blocks, page
from maxsup_jax.studies import verdicts
from maxsup_jax.studies.claims import OURS
from maxsup_jax.studies.collecting import NOT_RUN
from maxsup_jax.studies.measures import MEASURES

Record = Mapping[str, Any]
_FORMS = {'percent': blocks.percent, 'number': blocks.number}
_VERDICT_COLORS = {
  verdicts.HOLDS: _style.COLORS[2],
  verdicts.REVERSED: _style.COLORS[1],
  verdicts.DIFFERS: _style.COLORS[5],
  verdicts.UNRESOLVED: _style.QUIET,
}
_RESOLVED = (verdicts.HOLDS, verdicts.REVERSED, verdicts.DIFFERS)
# Panels of each figure: title, x axis, and whether y is a logarithm.
_TRAINING = {
  'accuracy': ('accuracy', 'epoch', False),
  'nll': ('NLL', 'epoch', True),
  'ece': ('ECE', 'epoch', False),
}
_COLLAPSE = {
  'nc1': ('NC1, training split', 'epoch', True),
  'nc2': ('NC2, training split', 'epoch', False),
  'nc3': ('NC3, training split', 'epoch', False),
}
_OUTPUTS = {
  'reliability': ('accuracy by confidence', 'confidence', False),
  'risk_coverage': ('selective risk', 'coverage', False),
  'information': ('mutual information (nats)', 'epoch', False),
}


def write(record: Record, out: Path) -> None:
  """Writes study.json, study.html and `figures/*.png`.

  Args:
    record: what `studies.collecting.collect` gave.
    out: the directory of the study.
  """
  made = sections(record)
  drawn = {
    b.name: b.figure
    for s in made
    for b in s.blocks
    if isinstance(b, blocks.Figure)
  }
  svgs = {name: _style.svg(figure) for name, figure in drawn.items()}
  html = page.render(
    record['title'],
    record['about'],
    made,
    svgs,
    'Made by maxsup_jax. No number of this page was typed by hand.',
  )
  (out / 'figures').mkdir(parents=True, exist_ok=True)
  for name, figure in drawn.items():
    files.write(out / 'figures' / f'{name}.png', _style.png(figure))
  text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
  files.write(out / 'study.json', text + '\n')
  files.write(out / 'study.html', html)


def sections(record: Record) -> list[blocks.Section]:
  """The page's sections; what a study lacks is left out, and said."""
  claims: list[blocks.Block] = [blocks.Text(headline(record))]
  claims += [blocks.Note(note) for note in notes(record)]
  if record['claims']:
    claims.append(_claims_table(record))
    if any(_effect(record, c) for c in record['claims']):
      claims.append(
        blocks.Figure(
          'forest',
          'Every claim',
          _forest(record),
          f'A point and an interval for each claim. {headline(record)}',
          _FOREST_CAPTION,
        )
      )
  made = [
    blocks.Section('claims', 'What the claims come to', claims),
    blocks.Section('measures', 'Every measure', [_measures_table(record)]),
  ]
  for name, title, panels, caption in (
    ('training', 'Over training', _TRAINING, 'On the evaluation split.'),
    ('collapse', 'Neural collapse', _COLLAPSE, 'In evaluation mode.'),
    (
      'outputs',
      'Calibration, rejection, information',
      _OUTPUTS,
      'Bins of confidence hold the examples of all seeds; risk is that of the '
      'surest examples, by the maximum softmax probability; mutual information '
      'is that of a training example and the difference of two logits.',
    ),
  ):
    there = {
      n: p
      for n, p in panels.items()
      if any(of.get(n) for of in record['curves'].values())
    }
    if name == 'outputs' and 'information' not in there:
      title = title.replace(', rejection, information', ' and rejection')
      caption = caption.rpartition('; ')[0] + '.'
    if there:
      figure = _curves(record, there)
      text = (
        f'{caption} Lines are means over seeds, bands reach from the least to '
        'the largest seed.'
      )
      made.append(
        blocks.Section(
          name,
          title,
          [blocks.Figure(name, title, figure, _seen(record, there), text)],
        )
      )
  series = _smoothing(record)
  if series:
    made.append(
      blocks.Section(
        'smoothing',
        'Accuracy against smoothing',
        [
          blocks.Figure(
            'smoothing',
            'Accuracy by smoothing',
            _scatter(series),
            _seen_smoothing(series),
            _SMOOTHING_CAPTION,
          )
        ],
      )
    )
  made.append(_sources(record))
  return made


def headline(record: Record) -> str:
  """How many claims of papers hold, in a sentence or two."""
  claims = [c for c in record['claims'] if c['source'] != OURS]
  if not claims:
    return 'This study tests no claim of a paper.'
  count = {
    v: sum(c['verdict'] == v for c in claims)
    for v in (
      verdicts.HOLDS,
      verdicts.REVERSED,
      verdicts.UNRESOLVED,
      verdicts.MISSING,
    )
  }
  parts = [
    f'{number} {verb}'
    for number, verb in (
      (count[verdicts.HOLDS], 'hold here'),
      (count[verdicts.REVERSED], 'come out reversed'),
      (count[verdicts.UNRESOLVED], 'are not resolved'),
      (count[verdicts.MISSING], 'were not measured'),
    )
    if number
  ]
  return (
    f'Of {len(claims)} claims of the papers, {", ".join(parts)}, at 5% after '
    f'correction for all {_tests(record)} tests of this page.'
  )


def _tests(record: Record) -> int:
  return sum(c['corrected'] is not None for c in record['claims'])


def notes(record: Record) -> list[str]:
  """What a reader has to know before the verdicts."""
  found = []
  seeds = [
    len(c['seeds']) for c in record['claims'] if c['difference'] is not None
  ]
  if seeds and min(seeds) < verdicts.FEW_SEEDS:
    found.append(
      f'Some comparisons have only {min(seeds)} seeds. '
      'Student’s interval supposes that differences between seeds are normal, '
      'which so few cannot show.'
    )
  failed = {n: why for n, why in record['missing'].items() if why != NOT_RUN}
  if failed:
    runs = '; '.join(f'{n}: {why}' for n, why in failed.items())
    found.append(f'Runs that failed: {runs}')
  if left := len(record['missing']) - len(failed):
    found.append(f'{left} runs are not finished.')
  return found


def _difference(claim: Record) -> str:
  form = _points if MEASURES[claim['measure']].form == 'percent' else _signed
  return form(claim['difference'])


def _interval(claim: Record) -> str:
  form = _points if MEASURES[claim['measure']].form == 'percent' else _signed
  low, high = (form(v) for v in claim['interval'])
  return f'[{low}, {high}]'


def _signed(value: float) -> str:
  text = blocks.number(value, 3)
  return f'+{text}' if value > 0 else text.replace('-', '−')


def _points(value: float) -> str:
  return _signed(100 * value)


def _unit(claim: Record) -> str:
  return ' points' if MEASURES[claim['measure']].form == 'percent' else ''


_SIGNS = {'+': 'more', '-': 'less', '=': 'equal', '?': 'open'}


def _claims_table(record: Record) -> blocks.Table:
  rows: list[list[str | blocks.Cell]] = []
  for c in record['claims']:
    title = MEASURES[c['measure']].title
    about = blocks.Cell(
      title, [f'{c["variant"]} − {c["baseline"]}', f'said: {_SIGNS[c["sign"]]}']
    )
    if c['difference'] is None:
      measured = [blocks.Cell('—'), blocks.Cell('—')]
    else:
      unit = _unit(c)
      corrected = c['corrected']
      measured = [
        blocks.Cell(f'{_difference(c)}{unit}', [f'{_interval(c)}{unit}']),
        blocks.Cell(
          '—' if corrected is None else blocks.number(corrected, 2),
          [
            f'found from {_size(c)}{unit} on',
            f'{len(c["seeds"])} seeds',
          ],
        ),
      ]
    rows.append(
      [
        blocks.Cell(c['sentence'], [f'{c["source"]}: {c["place"]}']),
        blocks.Cell(c['verdict'], best=c['verdict'] in _RESOLVED),
        *measured,
        about,
      ]
    )
  columns = ['claim', 'verdict', 'difference', 'p, corrected', 'measure']
  return blocks.Table(
    'Claims and verdicts',
    columns,
    rows,
    'Differences are means over pairs of equal seeds; in brackets, Student’s '
    '95% interval, not corrected. P-values are two-sided and corrected by '
    'Holm’s method over all tests of this page. A claim holds or is reversed '
    'if its corrected p-value is below 5%; a claim of equality, if its '
    'interval lies inside or outside the margin. "Found from": the difference '
    'that as many seeds find four times in five, without correction.',
    prose=True,
  )


def _size(claim: Record) -> str:
  percent = MEASURES[claim['measure']].form == 'percent'
  return blocks.number((100 if percent else 1) * claim['detectable'], 2)


def _effect(record: Record, claim: Record) -> tuple[float, ...] | None:
  """The difference and its interval over the spread of seeds."""
  if claim['difference'] is None:
    return None
  spreads = [
    record['table'][claim[of]][claim['measure']]['std']
    for of in ('variant', 'baseline')
  ]
  if None in spreads or not any(spreads):
    return None
  scale = (sum(s * s for s in spreads) / 2) ** 0.5
  turn = -1 if claim['sign'] == '-' else 1
  low, high = sorted(turn * v / scale for v in claim['interval'])
  return turn * claim['difference'] / scale, low, high


# What lies beyond is drawn as an arrow at the edge.
_FOREST_LIMIT = 100
_FOREST_CAPTION = (
  'Every claim: the mean difference and its 95% interval, over the standard '
  'deviation between seeds, on an axis that is linear from −1 to 1 and '
  'logarithmic beyond; arrows lie outside. What the paper expects lies to the '
  'right; hollow points '
  'are questions for which nothing is expected, and claims of equality.'
)


def _forest(record: Record) -> Figure:
  shown = [
    (c, e) for c in record['claims'] if (e := _effect(record, c)) is not None
  ]
  with _style.style():
    figure = Figure(figsize=(_style.WIDTH, 0.9 + 0.24 * len(shown)))
    ax = figure.subplots()
    limit = _FOREST_LIMIT
    for i, (claim, (mean, low, high)) in enumerate(shown):
      color = _VERDICT_COLORS[claim['verdict']]
      expected = claim['sign'] in '+-'
      ends = [min(max(v, -limit), limit) for v in (low, high)]
      ax.plot(ends, [i, i], color=color, linewidth=1.4)
      marker = 'o' if abs(mean) < limit else '>' if mean > 0 else '<'
      ax.plot(
        [min(max(mean, -limit), limit)],
        [i],
        marker,
        color=color,
        markersize=5,
        markerfacecolor=color if expected else _style.BACK,
      )
    ax.axvline(0, color=_style.QUIET, linewidth=0.8)
    ax.set_xscale('symlog', linthresh=1)
    ticks = [-100, -10, -1, 0, 1, 10, 100]
    ax.set_xticks(ticks, [f'{t}'.replace('-', '−') for t in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlim(-1.2 * limit, 1.2 * limit)
    ax.set_yticks(
      range(len(shown)),
      [
        f'{MEASURES[c["measure"]].title}: {c["variant"]} − {c["baseline"]}'
        for c, _ in shown
      ],
      fontsize=7.5,
    )
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xlabel('difference over the standard deviation between seeds')
    handles = [
      ax.plot([], [], 'o-', color=color, markersize=5)[0]
      for color in _VERDICT_COLORS.values()
    ]
    _style.legend(figure, handles, list(_VERDICT_COLORS))
  return figure


def _measures_table(record: Record) -> blocks.Table:
  variants = list(record['variants'])
  rows: list[list[str | blocks.Cell]] = []
  for name, measure in MEASURES.items():
    found = [record['table'][v].get(name) for v in variants]
    if any(found):
      row: list[str | blocks.Cell] = [
        blocks.Cell(measure.title, [measure.meaning])
      ]
      seeds = len(record['seeds'])
      row += [_mean(f, _FORMS[measure.form], seeds) for f in found]
      rows.append(row)
  return blocks.Table(
    'Means over seeds',
    ['', *variants],
    rows,
    'Mean over seeds, ± their standard deviation. '
    + (
      f'{len(record["seeds"])} seeds, unless another number is given.'
      if len(record['seeds']) > 1
      else 'One seed, so there is no spread.'
    ),
    prose=True,
  )


def _mean(
  found: Record | None, form: Callable[[float], str], seeds: int
) -> blocks.Cell:
  """A mean and its spread; and of how many seeds, unless it is all of them."""
  if not found:
    return blocks.Cell('—')
  below = [] if found['std'] is None else [f'± {form(found["std"])}']
  if found['seeds'] != seeds:
    below.append(f'{found["seeds"]} of {seeds} seeds')
  return blocks.Cell(form(found['mean']), below)


def _curves(
  record: Record, panels: Mapping[str, tuple[str, str, bool]]
) -> Figure:
  with _style.style():
    figure, axes = _style.panels(len(panels), height=2.5)
    for ax, (name, (title, x, log)) in zip(axes, panels.items()):
      for i, of in enumerate(record['curves'].values()):
        if of.get(name):
          _band(ax, of[name], i)
      ax.set_title(title)
      ax.set_xlabel(x)
      if log:
        ax.set_yscale('log')
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter('{x:g}')
        ax.yaxis.set_minor_locator(NullLocator())
      if name == 'reliability':
        ax.plot([0, 1], [0, 1], color=_style.QUIET, linewidth=0.8, zorder=0)
    handles = [
      axes[0].plot([], [], **_style.line(i))[0]
      for i in range(len(record['curves']))
    ]
    names = blocks.short_names(list(record['curves']))
    _style.legend(figure, handles, [names[n] for n in record['curves']])
  return figure


def _seen(record: Record, panels: Mapping[str, tuple[str, str, bool]]) -> str:
  """Where the lines end, panel by panel."""
  told = []
  for panel, (title, x, _) in panels.items():
    ends = [
      f'{variant} {blocks.number(found[-1], 3)}'
      for variant, of in record['curves'].items()
      if (found := [v for v in (of.get(panel) or {}).get('mean', []) if v])
    ]
    told.append(f'{title} against {x}, at the end: {", ".join(ends)}')
  return f'{"; ".join(told)}.'


def _band(ax: Axes, curve: Record, i: int) -> None:
  """A line over the points that all seeds have, and their range."""
  rows = [
    row
    for row in zip(*(curve[n] for n in ('x', 'mean', 'low', 'high')))
    if None not in row
  ]
  if rows:
    x, mean, low, high = zip(*rows)
    ax.plot(x, mean, **_style.line(i))
    _style.band(ax, x, low, high, _style.color(i), 0.15)


_SMOOTHING_CAPTION = (
  'Mean accuracy over seeds, and the range, against the strength of the '
  'objective; of students, against the effective smoothing of their targets, '
  'γ of Müller et al. (2019), Figure 5.'
)


def _smoothing(record: Record) -> dict[str, list[tuple[float, ...]]]:
  """Points of the variants whose names differ in a last number only."""
  series: dict[str, list[tuple[float, ...]]] = {}
  for name, of in record['variants'].items():
    table = record['table'][name]
    gamma = table.get('teacher_smoothing')
    alpha = of.get('objective.alpha')
    x = gamma['mean'] if gamma else alpha
    stem = re.sub(r'_\d+$', '', name)
    found = [v.get('accuracy') for v in record['values'][name].values()]
    values = [v for v in found if v is not None]
    if stem != name and isinstance(x, int | float) and values:
      mean = sum(values) / len(values)
      point = float(x), mean, min(values), max(values)
      series.setdefault(stem, []).append(point)
  return {s: sorted(points) for s, points in series.items() if len(points) > 1}


def _seen_smoothing(series: Mapping[str, list[tuple[float, ...]]]) -> str:
  told = [
    f'{stem} is most accurate, {blocks.percent(mean)}, at {blocks.number(x, 3)}'
    for stem, points in series.items()
    for x, mean, *_ in [max(points, key=lambda p: p[1])]
  ]
  return f'Lines of the accuracy against the smoothing. {"; ".join(told)}.'


def _scatter(series: Mapping[str, list[tuple[float, ...]]]) -> Figure:
  with _style.style():
    figure = Figure(figsize=(_style.WIDTH, 3.6))
    ax = figure.subplots()
    for i, points in enumerate(series.values()):
      x, mean, low, high = zip(*points)
      ax.plot(x, mean, marker=_style.marker(i), markersize=4, **_style.line(i))
      ax.vlines(x, low, high, color=_style.color(i), linewidth=0.8)
    ax.set_xlabel('smoothing of the targets')
    ax.set_ylabel('accuracy')
    _style.legend(figure, ax.get_lines(), list(series))
  return figure


def _sources(record: Record) -> blocks.Section:
  rows: list[Sequence[str | blocks.Cell]] = [
    [name, ', '.join(f'{k}={v}' for k, v in of.items())]
    for name, of in record['variants'].items()
  ]
  made = '; '.join(
    f'{package} {", ".join(of)}' for package, of in record['versions'].items()
  )
  table = blocks.Table(
    'Variants',
    ['variant', 'objective, and what differs from the first'],
    rows,
    f'Seeds {", ".join(map(str, record["seeds"]))}. '
    f'Device: {", ".join(record["devices"]) or "—"}. {made}'
    + ''.join(
      f'. BLEU: {signature}' for signature in record.get('signatures', ())
    ),
  )
  return blocks.Section('sources', 'What was run', [table])


def as_text(record: Record) -> str:
  """The verdicts, for a terminal."""
  lines = [headline(record), *notes(record)]
  if record['claims']:
    width = max(len(c['name']) for c in record['claims'])
    lines.append('')
  for c in record['claims']:
    measured = ''
    if c['difference'] is not None:
      measured = f'{_difference(c)}{_unit(c)} {_interval(c)}'
    title = MEASURES[c['measure']].title
    lines.append(
      f'{c["name"]:{width}}  {c["verdict"]:12}  {title}: {measured}'.rstrip()
    )
  return '\n'.join(lines)


def markdown(record: Record) -> list[str]:
  """The claims as the lines of a Markdown table."""
  lines = [
    '| claim | source | measure | difference, 95% interval | p | verdict |',
    '|---|---|---|---|---|---|',
  ]
  for c in record['claims']:
    measured = corrected = '—'
    if c['difference'] is not None:
      measured = f'{_difference(c)}{_unit(c)} {_interval(c)}'
    if c['corrected'] is not None:
      corrected = blocks.number(c['corrected'], 2)
    about = f'{MEASURES[c["measure"]].title}, {c["variant"]} − {c["baseline"]}'
    cells = [c['sentence'], f'{c["source"]}, {c["place"]}', about]
    cells += [measured, corrected, f'**{c["verdict"]}**']
    lines.append('| ' + ' | '.join(cells) + ' |')
  return lines
