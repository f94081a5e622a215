import warnings

import numpy as np
import pytest

from maxsup_jax.reports import _style, blocks


def test_numbers():
  nan, inf = float('nan'), float('inf')
  shares = (0.5, 0.000123, 0.0, 1e-12, -0.02, nan, inf, None)
  assert [blocks.percent(x) for x in shares] == [
    *('50.00%', '0.012%', '0%', '0%', '-2.00%', '—', 'inf', '—')
  ]
  values = (1234.5678, 0.12345, 2.5e-5, 0.0, 5, np.int64(12345), nan, -inf)
  assert [blocks.number(x) for x in values] == [
    *('1235', '0.1235', '2.50e-05', '0', '5', '12,345', '—', '-inf')
  ]


@pytest.mark.parametrize(
  'names',
  [
    ['resnet50-imagenet-ls-a0.1-seed0', 'resnet50-imagenet-maxsup-a0.1-seed0'],
    ['a' * 40 + 'x' + 'b' * 40, 'a' * 40 + 'y' + 'b' * 40],
    ['short', 'l' * 50],
    ['x' * 30 + str(i) + 'y' * 30 + str(i) + 'z' * 30 for i in range(12)],
    ['a' * 30, 'a' * 31],
    ['only one name, and a very long one'],
  ],
)
def test_short_names_fit_and_differ(names):
  shown = blocks.short_names(names)
  assert list(shown) == names
  assert len(set(shown.values())) == len(names)
  assert all(len(s) <= 26 for s in shown.values())


def test_a_name_that_begins_with_an_underscore_is_in_the_legend():
  names = ['_baseline', '_' + 'x' * 40, 'CE']
  with _style.style():
    figure, (ax,) = _style.panels(1)
    for name in blocks.short_names(names).values():
      ax.plot([0, 1], label=name)
    _style.legend(figure, *ax.get_legend_handles_labels())
    figure.draw_without_rendering()
  shown = [t.get_text().strip() for t in figure.legends[0].get_texts()]
  assert len(shown) == 3
  assert shown[::2] == names[::2]


def test_short_names_keep_what_differs():
  names = [
    'resnet50-imagenet-ls-a0.1-seed0',
    'resnet50-imagenet-maxsup-a0.1-seed0',
  ]
  first, second = blocks.short_names(names).values()
  assert 'ls' in first
  assert 'maxsup' in second
  assert blocks.short_names(['CE', 'LS']) == {'CE': 'CE', 'LS': 'LS'}


def figure_with(text):
  with _style.style():
    figure, (ax,) = _style.panels(1)
    ax.plot([0, 1], label=text)
    _style.legend(figure, *ax.get_legend_handles_labels())
  return figure


def test_any_letter_can_be_drawn():
  # Were dollars mathematics, this would be an error.
  assert _style.png(figure_with('$\\frac$')).startswith(b'\x89PNG')
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    _style.png(figure_with('日本'))
  assert not caught


@pytest.mark.parametrize(('count', 'length'), [(1, 26), (3, 22), (8, 26)])
def test_legends_stay_within_the_figure(count, length):
  with _style.style():
    figure, (ax,) = _style.panels(1)
    for i in range(count):
      ax.plot([0, i], label=chr(ord('a') + i) + 'm' * (length - 1))
    _style.legend(figure, *ax.get_legend_handles_labels())
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
  assert box.x0 >= 0
  assert box.x1 <= figure.bbox.x1
