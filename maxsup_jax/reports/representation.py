"""The section on the features: variation, neural collapse, trajectories."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from maxsup_jax.diagnostics import neural_collapse, representation
from maxsup_jax.errors import UsageError
from maxsup_jax.outputs import Outputs
from maxsup_jax.reports import _style, blocks, measured
from maxsup_jax.reports.measured import Measured, Options, describe

NAME, TITLE = 'representation', 'Features and neural collapse'

# Attributes of `neural_collapse.NeuralCollapse`, and how the field calls them.
_COLLAPSE = {
  'nc1': 'NC1: 1/K tr(Σw Σb⁺)',
  'nc1_correct': 'NC1 of correct predictions',
  'nc1_wrong': 'NC1 of wrong predictions',
  'nc2': 'NC2 (Guo): WᵀH to a simplex',
  'nc3': 'NC3 (Guo): W to H',
  'nc2h': 'HᵀH to a simplex',
  'nc2w': 'NC2 (Zhu): WᵀW to a simplex',
  'residual': 'NC4 (Zhu): ‖Wᵀh + b‖',
  'equinorm_h': 'NC2 (Papyan): unequal norms of H',
  'equiangularity_h': 'NC2 (Papyan): unequal angles of H',
  'ncc_mismatch': 'NC4 (Papyan): nearest mean is not the prediction',
  'ncc_accuracy': 'accuracy of the nearest class mean',
  'trace_ratio': 'tr Σw / tr Σb',
  'cdnv': 'CDNV',
  'w_norm': 'mean norm of W',
  'h_norm': 'mean norm of H',
}
_TRAJECTORIES = {
  'error': 'error',
  'nc1': 'NC1',
  'nc2': 'NC2',
  'nc3': 'NC3',
  'ece': 'ECE',
  'h_norm': 'norm of the class means',
  'r_squared': 'R², class separation',
}


def section(models: list[Measured], options: Options) -> blocks.Section:
  """Builds the section from the models that have features."""
  numbers: dict[str, Any] = {}
  parts: list[blocks.Block] = []
  columns: dict[str, list[dict[str, Any]]] = {}
  for m in models:
    found = numbers[m.name] = dict[str, Any]()
    for part, outputs in (('train', m.train), ('test', m.outputs)):
      if outputs is None:
        continue
      if outputs.features is None:
        reason = f'{outputs.path} has no features'
        found[part] = {'not_available': reason}
        parts.append(blocks.Note(f'{m.name}: {reason}.'))
        continue
      if outputs.head_error is not None and not outputs.linear:
        parts.append(blocks.Note(f'{m.name}: {other_head(outputs)}'))
      split = outputs.metadata.get('split') or part
      try:
        found[part] = measure(outputs)
      except UsageError as e:
        found[part] = {'not_available': str(e)}
        parts.append(blocks.Note(f'{m.name}, {split}: {e}.'))
        continue
      method = m.outputs.method or m.name
      columns.setdefault(f'{method}, {part}', []).append(found[part])
      if zeros := found[part]['zero_features']:
        note = (
          f'{m.name}, {split}: the features of {zeros:,} of '
          f'{outputs.num_examples:,} examples are all 0. They have no '
          'direction, and the cosine distances leave them out.'
        )
        parts.append(blocks.Note(note))
  if not columns and all(m.outputs.features is None for m in models):
    parts = []  # A file of logits need not say what it is not.
  if columns:
    parts = [*_tables(columns, describe(models, train=True)), *parts]
  csv = blocks.Curves()
  parts += _trajectories(models, csv)
  curves = {'trajectories': csv.columns} if csv.columns else {}
  return blocks.Section(NAME, TITLE, parts, numbers, curves)


def measure(outputs: Outputs) -> dict[str, float | None]:
  """The cosine variation and neural collapse of one split."""
  features: Any = outputs.features
  labels, logits = outputs.labels, outputs.logits
  variation = representation.cosine_variation(
    features, labels, num_classes=outputs.num_classes
  )
  collapse_of = functools.partial(
    neural_collapse.neural_collapse,
    *(features, labels),
    weights=outputs.weights,
    bias=outputs.bias,
    logits=logits,
  )
  collapse = collapse_of()
  record = {
    field.name: value
    for field in dataclasses.fields(collapse)
    if not isinstance(value := getattr(collapse, field.name), np.ndarray)
  }
  record |= {
    'd_within': variation.within,
    'd_total': variation.total,
    'r_squared': variation.r_squared,
    'zero_features': variation.zeros,
    # By the predicted class; a network that predicts a single one has none.
    'nc1_correct': None,
    'nc1_wrong': None,
  }
  if len(np.unique(logits.argmax(1))) > 1:
    grouped = collapse_of(group_by='predictions')
    record |= {
      'nc1_correct': grouped.nc1_correct,
      'nc1_wrong': grouped.nc1_wrong,
      'never_predicted': grouped.num_dropped,
    }
  return record


def other_head(outputs: Outputs) -> str:
  """The note on features and weights that do not give the logits."""
  return (
    f'the logits of {outputs.path} differ from features · weights + bias by up '
    f'to {outputs.head_error:.2g} standard deviations, so this linear layer is '
    'not the classifier (are the weights transposed?), and what is said of the '
    'weights does not describe it.'
  )


def _tables(columns: Mapping[str, Any], data: str) -> Iterator[blocks.Table]:
  yield blocks.table(
    'Variation of the features',
    columns,
    {
      'd_within': 'd within, variation within classes',
      'd_total': 'd total, variation of all features',
      'r_squared': 'R² = 1 − d within / d total, class separation',
    },
    f'{data}. Cosine distances of penultimate features, every class weighted '
    'equally (Kornblith et al., 2021; Zhou et al., 2025). More variation '
    'within classes goes with features that transfer better.',
  )
  yield blocks.table(
    'Neural collapse',
    columns,
    {
      key: title
      for key, title in _COLLAPSE.items()
      if any(r[key] is not None for rs in columns.values() for r in rs)
    },
    f'{data}. W: weights of the last layer; H: class means of the features, '
    'centred by the mean of the class means. Complete collapse is 0 in all but '
    'norms and accuracy. NC1, NC2 and NC3 as in '
    'Guo et al. (2025), with the 1/K of the paper and NC3 not squared; class '
    'means are centred by the mean of the class means, weights are not '
    'centred. Correct and wrong predictions are grouped by the predicted '
    'class.',
  )


def _trajectories(
  models: list[Measured], csv: blocks.Curves
) -> Iterator[blocks.Block]:
  runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
  for m in models:
    for record in m.outputs.history:
      raw = record.get('weights', 'raw') == 'raw'
      if record.get('kind') != 'diagnostics' or not raw:
        continue
      error = record.get('accuracy')
      row = {'error': None if error is None else 1 - error} | {
        key: record.get(key) for key in _TRAJECTORIES if key != 'error'
      }
      split, epoch = record.get('split', ''), record.get('epoch')
      splits = runs.setdefault(m.name, {})
      splits.setdefault(split, []).append({'epoch': epoch, **row})
      at = {'model': m.name, 'split': split, 'step': record.get('step')}
      known = {k: float('nan') if v is None else v for k, v in row.items()}
      csv.add(1, **at, epoch=epoch, **known)
  if not runs:
    return
  # The training split is drawn first, with solid lines.
  drawn = sorted(
    {s for r in runs.values() for s in r},
    key=lambda s: (not s.startswith('train'), s),
  )
  if left_out := ', '.join(drawn[len(_SPLIT_STYLES) :]):
    drawn = drawn[: len(_SPLIT_STYLES)]
    yield blocks.Note(f'Not drawn, as there are too many splits: {left_out}.')
  methods: dict[str, list[str]] = {}
  for m in models:
    if m.name in runs:
      methods.setdefault(m.outputs.method or m.name, []).append(m.name)
  styles = ', '.join(map(' '.join, zip(drawn, _SPLIT_STYLES)))
  order = list(measured.methods(models))
  yield blocks.Figure(
    'trajectories',
    'During training',
    _draw_trajectories(runs, drawn, methods, order),
    _seen(runs, drawn[0]),
    f'{describe(models, train=True)}. Neural collapse during training, as the '
    f'runs logged it: {styles}. NC1 with the 1/K of the paper, NC3 not '
    'squared; BatchNorm in evaluation mode, no augmentation; averaged weights '
    'are not drawn. Lines of several seeds are their mean. In the last panel '
    'NC1 falls to the right.',
  )


def _seen(runs: Mapping[str, Any], split: str) -> str:
  """Where the lines begin and end."""
  told = []
  for name, by_split in runs.items():
    _, nc1 = _defined(by_split.get(split, []), 'epoch', 'nc1')
    if nc1:
      ends = f'{blocks.number(nc1[0])} to {blocks.number(nc1[-1])}'
      told.append(f'{name} from {ends}')
  return (
    'Panels of error, NC1, NC2, NC3, ECE, norm and R² against the epoch. NC1 '
    f'on {split}: {"; ".join(told)}.'
  )


_SPLIT_STYLES = {'solid': '-', 'dashed': '--', 'dotted': ':'}
_SPLIT_STYLES |= {'dash-dotted': '-.'}


def _draw_trajectories(
  runs: Mapping[str, Any],
  splits: list[str],
  methods: Mapping[str, list[str]],
  order: Sequence[str],
) -> Figure:
  size, looks = {'markersize': 2.5, 'linewidth': 1.1}, list[dict[str, Any]]()
  with _style.style():
    figure, axes = _style.panels(len(_TRAJECTORIES) + 1, columns=4, height=1.9)
    for method, names in methods.items():
      i = order.index(method)
      looks.append({'color': _style.color(i), 'marker': _style.marker(i)})
      for split, style in zip(splits, _SPLIT_STYLES.values()):
        records = _mean_records([runs[n].get(split, []) for n in names])
        look: dict[str, Any] = {'linestyle': style, **looks[-1], **size}
        for key, ax in zip(_TRAJECTORIES, axes):
          ax.plot(*_defined(records, 'epoch', key), **look)
        axes[-1].plot(*_defined(records, 'nc1', 'nc2'), **look)
    for ax, title in zip(axes, [*_TRAJECTORIES.values(), 'NC2 against NC1']):
      ax.set(title=title, xlabel='epoch')
    axes[1].set_yscale('log')
    axes[-1].set_xscale('log')
    for axis in (axes[1].yaxis, axes[-1].xaxis):
      axis.set_major_locator(LogLocator(subs=(1, 3)))
      axis.set_major_formatter('{x:g}')
      axis.set_minor_formatter(NullFormatter())
    # It falls during training, and time runs to the right.
    axes[-1].invert_xaxis()
    axes[-1].set_xlabel('NC1')
    handles = [Line2D([], [], **look) for look in looks]
    shown = blocks.short_names(list(methods))
    _style.legend(figure, handles, list(shown.values()))
  return figure


def _mean_records(seeds: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
  """Means over the seeds, at the epochs that all of them logged."""
  by_epoch = [{r['epoch']: r for r in of} for of in seeds]
  shared = [e for e in by_epoch[0] if all(e in of for of in by_epoch)]
  means = []
  for epoch in shared:
    rows = [of[epoch] for of in by_epoch]
    means.append({'epoch': epoch})
    for key in _TRAJECTORIES:
      values = [r[key] for r in rows]
      there = all(v is not None for v in values)
      means[-1][key] = float(np.mean(values)) if there else None
  return means


def _defined(records: Sequence[Any], *keys: str) -> list[list[Any]]:
  """The values of the keys in the records that have all of them."""
  there = [r for r in records if all(r[k] is not None for k in keys)]
  return [[r[k] for r in there] for k in keys]
