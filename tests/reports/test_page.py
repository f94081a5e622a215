"""The page as its readers get it: whole, legible, and loading nothing."""

import dataclasses
import html
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from maxsup_jax.outputs import Outputs
from maxsup_jax.reports import _style, blocks, page, report
from maxsup_jax.reports.directory import Directory
from maxsup_jax.reports.measured import KIND, Measured, Options
from tests import browser
from tests.classifier import classifier, history

OPTIONS = Options(resamples=40, seeds=(0,))
# Markup, 200 letters, letters that matplotlib or HTML could take for syntax.
NAMES = (
  '_<script>alert(1)</script>日本-->&"$\\frac$',
  'x' * 200,
  'resnet50_label_smoothing_0.1_seed0_epoch90_' + 'long_' * 31,
)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """A report with everything, of models with names that want to do harm."""
  models, labels = [], None
  for i, name in enumerate(NAMES):
    arrays = classifier(i, n=200, labels=labels)
    labels = arrays['labels']
    outputs = Outputs(
      name=name,
      path=f'{i}.npz',
      **arrays,
      class_names=('日本', '$', '<b>', '"', 'e' * 200),
      history=history(i),
      head_error=0.0,
      metadata={'dataset': '<i>blobs</i>', 'seed': i},
    )
    models.append(Measured(outputs, None if i else outputs))
  sections = report.build(models, OPTIONS)
  out = Directory(tmp_path_factory.mktemp('page'), KIND)
  made = report.Report(sections, models, OPTIONS, {'command': '<x>'})
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(_style, 'png', lambda figure: b'')  # It takes seconds.
    path = made.write(out)
  return path, sections


class Parsed(HTMLParser):
  """Every tag, and every text outside of the style sheet."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.texts, self._open = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    self._open.append(tag)

  def handle_endtag(self, tag):
    self._open.pop()

  def handle_data(self, data):
    if self._open and self._open[-1] != 'style':
      self.texts.append(data)

  def all(self, tag):
    return [attrs for t, attrs in self.tags if t == tag]


def test_names_do_no_harm(written):
  path, _ = written
  text = path.read_text()
  parsed = Parsed(text)
  assert not {'b', 'i'} & {t for t, _ in parsed.tags}
  # One script, the page's own.
  assert re.findall('<script>(.*?)</script>', text, re.S) == [page.SORT]
  assert not [a for _, attrs in parsed.tags for a in attrs if a[:2] == 'on']
  shown = ''.join(parsed.texts)
  for name in NAMES:
    assert name in shown
  assert html.escape(NAMES[0]) in text


def test_nothing_is_loaded(written):
  parsed = Parsed(written[0].read_text())
  for _, attrs in parsed.tags:
    for key in ('href', 'src', 'xlink:href'):
      assert attrs.get(key, '#').startswith(('#', 'data:,'))
  assert not re.search(r'url\((?!#)|@import', written[0].read_text())


def test_figures_say_what_is_seen_and_tables_what_they_are(written):
  path, sections = written
  text = path.read_text()
  figures = [
    b for s in sections for b in s.blocks if isinstance(b, blocks.Figure)
  ]
  parsed = Parsed(text)
  drawn = parsed.all('svg')
  assert [s['aria-label'] for s in drawn] == [f.alt for f in figures]
  assert {s['role'] for s in drawn} == {'img'}
  for f in figures:
    assert re.search(r'\d', f.alt), f.name
    assert f.alt != f.caption
    if f.name not in ('suppression', 'trajectories'):
      assert all(n in f.alt for n in NAMES[1:]) or f.name.endswith('plane')
  assert len(parsed.all('caption')) == len(parsed.all('table'))
  assert {t.get('scope') for t in parsed.all('th')} == {'row', 'col'}
  # Whatever scrolls can be reached by keys, and so can all explanations.
  scrolling = [d for d in parsed.all('div') if d.get('class') == 'scroll']
  assert all(d['tabindex'] == '0' and d['aria-label'] for d in scrolling)
  explained = len(figures) + len(parsed.all('table'))
  assert len(scrolling) == explained == len(parsed.all('details'))
  ids = [attrs['id'] for _, attrs in parsed.tags if 'id' in attrs]
  assert len(ids) == len(set(ids))
  used = re.findall(r'(?:href="|url\()#([^")]+)', text)
  assert set(used) <= set(ids)


def every_number(value):
  """All numbers in results.json, and the medians and ends over splits."""
  if isinstance(value, bool) or value is None:
    return
  if isinstance(value, int | float):
    yield value
  elif isinstance(value, dict):
    for inner in value.values():
      yield from every_number(inner)
  elif isinstance(value, list):
    for inner in value:
      yield from every_number(inner)
    yield from medians(value)


def medians(splits):
  """Of numbers that every split has; what is undefined in one is left out."""
  if splits and all(isinstance(v, dict) for v in splits):
    for key in splits[0]:
      yield from medians([v[key] for v in splits if key in v])
  else:
    defined = [v for v in splits if isinstance(v, int | float)]
    if defined:
      yield float(np.median(defined))


def shown(value):
  """As a page may write a number."""
  for v in (value, abs(value), np.sqrt(max(value, 0))):
    yield from (blocks.percent(v), blocks.percent(v)[:-1])
    yield from (blocks.number(v), blocks.number(v, 2), f'{v:g}', f'{v:,.0f}')


def test_every_number_of_the_page_is_in_the_results(written):
  path, sections = written
  results = json.loads((path.parent / 'results.json').read_text())
  known = {s for v in every_number(results) for s in shown(v)}
  number = re.compile(r'(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?%?')
  seen = 0

  def check(text, where):
    nonlocal seen
    for name in NAMES:
      text = text.replace(name, '')
    for found in number.findall(text):
      assert found.rstrip(',') in known, (where, found, text)
      seen += 1

  for section in sections:
    for claim in section.lead:
      check(claim['sentence'], 'lead')
    for block in section.blocks:
      if isinstance(block, blocks.Table):
        for row in block.rows:
          for cell in row[1:]:
            texts = (
              [cell] if isinstance(cell, str) else [cell.value, *cell.details]
            )
            for text in texts:
              check(re.sub(r'\(\d×\)', '', text), (block.title, row[0]))
  assert seen > 500
  # And what the blocks say is what the page shows.
  cells = re.sub(r'<[^>]*>', ' ', path.read_text())
  for section in sections:
    for claim in section.lead:
      assert html.escape(claim['sentence']) in path.read_text()
    for block in section.blocks:
      if isinstance(block, blocks.Table):
        values = [
          c if isinstance(c, str) else c.value for c in block.rows[0][1:]
        ]
        assert all(v in cells for v in values)


def luminance(color):
  parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
  linear = np.where(
    parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4
  )
  return linear @ (0.2126, 0.7152, 0.0722)


def contrast(a, b):
  """By the Web Content Accessibility Guidelines, from 1 to 21."""
  low, high = sorted((luminance(a), luminance(b)))
  return (high + 0.05) / (low + 0.05)


def test_contrast_on_both_pages(written):
  assert contrast('#000000', '#ffffff') == pytest.approx(21)
  backs = page.COLORS['back']
  for role in ('ink', 'soft', 'link', 'good', 'bad'):
    for color, back in zip(page.COLORS[role], backs):
      assert contrast(color, back) >= 4.5, (role, back)
  for color in {*_style.COLORS, _style.QUIET} - {_style.INK}:
    assert min(contrast(color, back) for back in backs) >= 3, color
  # No figure has a colour beside those, nor the default black.
  known = {c.lower() for c in (*_style.COLORS, *_style.THEME, _style.QUIET)}
  for path in written[0].parent.glob('*.svg'):
    found = re.findall(r'#[0-9a-fA-F]{6}\b', path.read_text())
    assert {c.lower() for c in found} <= known, path.name


@pytest.mark.parametrize('count', [1, 2, 4, 5, 7, 8, 10])
def test_every_column_of_panels_has_its_numbers(count):
  with _style.style():
    figure, axes = _style.panels(count, sharex=True, sharey=True)
  assert len(figure.axes) == len(axes) == count
  below = {}
  for ax in axes:
    below[ax.get_subplotspec().colspan.start] = ax  # the last one stays
  for ax in below.values():
    assert any(t.label1.get_visible() for t in ax.xaxis.get_major_ticks())


def test_titles_do_not_overlap(written):
  for section in written[1]:
    for block in section.blocks:
      if getattr(block, 'name', '') in ('reliability', 'template_plane'):
        with _style.style():
          block.figure.draw_without_rendering()
          boxes = [ax.title.get_window_extent() for ax in block.figure.axes]
        for a, b in itertools.combinations(boxes, 2):
          assert not (a.width and b.width and a.overlaps(b)), block.name


@pytest.mark.skipif(browser.CHROMIUM is None, reason='needs Chromium')
def test_in_a_browser(written):
  path, sections = written
  figures = sum(
    isinstance(b, blocks.Figure) for s in sections for b in s.blocks
  )
  with browser.opened(path, 1200, 900) as tab:
    for scheme, width in itertools.product(('light', 'dark'), (390, 900, 1600)):
      tab.prefer(scheme)
      tab.resize(width, 900)
      # Nothing but what scrolls in its box is wider than the window.
      assert tab.evaluate('document.documentElement.scrollWidth') <= width
      sizes = tab.evaluate(
        "[...document.querySelectorAll('figure svg')].map(s => "
        '[s.getBoundingClientRect().width, s.getBoundingClientRect().height])'
      )
      assert len(sizes) == figures
      assert min(map(min, sizes)) > 100
      back = page.COLORS['back'][scheme == 'dark']
      wanted = [int(back[i : i + 2], 16) for i in (1, 3, 5)]
      got = tab.evaluate('getComputedStyle(document.body).backgroundColor')
      assert [int(n) for n in re.findall(r'\d+', got)] == wanted
      # The letters of figures follow.
      inks = tab.evaluate(
        "[...document.querySelectorAll('svg [id^=reliability-]')].length && "
        "[...document.querySelectorAll('svg g')].map(g => "
        'getComputedStyle(g).fill).filter(f => f != "rgb(0, 0, 0)")'
      )
      ink = page.COLORS['ink'][scheme == 'dark']
      r, g, b = (int(ink[i : i + 2], 16) for i in (1, 3, 5))
      assert f'rgb({r}, {g}, {b})' in inks
    # A heading sorts, and once more turns the order.
    values = []
    for _ in range(2):
      values.append(
        tab.evaluate(
          "document.querySelectorAll('table.sortable th button')[1].click(), "
          "[...document.querySelectorAll('table.sortable td:nth-child(2)')]"
          '.map(c => parseFloat(c.textContent))'
        )
      )
    assert values[0] == sorted(values[0]) == values[1][::-1]
    assert len(set(values[0])) > 2
    missing = tab.evaluate(
      "[...document.querySelectorAll('nav a')].filter("
      'a => !document.getElementById(a.hash.slice(1))).length'
    )
    assert missing == 0
    assert tab.pdf().startswith(b'%PDF')
    assert tab.messages == []
    assert tab.requests == []


def test_a_section_without_content_is_left_out(tmp_path):
  arrays = classifier(0, n=60)
  bare = {k: arrays[k] for k in ('logits', 'labels')}
  models = [Measured(Outputs('bare', 'bare.npz', **bare))]
  options = dataclasses.replace(OPTIONS, resamples=0)
  sections = report.build(
    models, options, ('summary', 'representation', 'projection', 'information')
  )
  out = Directory(tmp_path, KIND)
  text = report.Report(sections, models, options).write(out).read_text()
  titles = re.findall('<h2>(.*?)</h2>', text)
  assert titles == ['Summary', 'Where the numbers come from']
  assert 'The files have nothing for: Features and neural collapse, ' in text
