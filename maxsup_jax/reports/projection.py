"""The section with pictures of the features of three classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from maxsup_jax.diagnostics import projection
from maxsup_jax.errors import UsageError
from maxsup_jax.outputs import Outputs
from maxsup_jax.reports import _style, blocks, measured
from maxsup_jax.reports.measured import Measured, Options, describe

NAME, TITLE = 'projection', 'Pictures of the features'
_PER_CLASS = 100
_CLASS_COLORS = tuple(_style.COLORS[i] for i in (1, 3, 2))


def section(models: list[Measured], options: Options) -> blocks.Section:
  """Builds the section from the models that have features."""
  if models[0].outputs.num_classes < 3:
    return blocks.Section(NAME, TITLE, [])
  # One picture for each method: seeds look alike.
  models = [ms[0] for ms in measured.methods(models).values()]
  if all(m.outputs.features is None for m in models):
    return blocks.Section(NAME, TITLE, [])
  parts: list[blocks.Block] = []
  csv, numbers = blocks.Curves(), dict[str, dict[str, Any]]()
  for kind, needs in (
    ('template_plane', ('features', 'weights')),
    ('mean_plane', ('features',)),
  ):
    drawn = {}
    for m in models:
      missing = [n for n in needs if getattr(m.outputs, n) is None]
      try:
        if missing:
          what = ' and no '.join(missing)
          raise UsageError(f'{m.outputs.path} has no {what}')
        if kind == 'template_plane' and not m.outputs.linear:
          raise UsageError(
            f'the weights of {m.outputs.path} do not give its logits, so '
            'their plane would not show them'
          )
        drawn[m.name] = _project(m, kind, options)
      except UsageError as e:
        parts.append(blocks.Note(f'{m.name}: {e}.'))
        numbers.setdefault(m.name, {})[kind] = {'not_available': str(e)}
    for name, panels in drawn.items():
      for part, (points, classes) in panels.items():
        of = {'model': name, 'plane': kind, 'split': part, 'label': classes}
        csv.add(len(points), **of, x=points[:, 0], y=points[:, 1])
    if drawn:
      names = [models[0].outputs.class_name(c) for c in options.classes]
      caption = _CAPTIONS[kind].format(
        data=describe(models, train=True),
        classes=', '.join(names),
        per_class=_PER_CLASS,
      )
      figure = _draw(drawn, names, options)
      title, seen = _TITLES[kind], _seen(drawn, names, options)
      parts.append(blocks.Figure(kind, title, figure, seen, caption))
  curves = {'projection': csv.columns} if csv.columns else {}
  return blocks.Section(NAME, TITLE, parts, numbers, curves)


def check_classes(models: list[Measured], options: Options) -> None:
  """Refuses unknown classes, before anything is computed."""
  K = models[0].outputs.num_classes
  if K > 2 and not all(0 <= c < K for c in options.classes):
    raise UsageError(
      f'classes are {options.classes}; expected from 0 to {K - 1}'
    )


_TITLES = {
  'template_plane': 'Features on the plane of three rows of the last layer',
  'mean_plane': 'Features on the plane of three class means',
}
_CAPTIONS = {
  'template_plane': (
    '{data}. Penultimate features of the classes {classes}, projected on the '
    'plane through the three rows of the last layer, bias included where there '
    'is one, as Müller et al. (2019) draw them; at most {per_class} examples '
    'of each class, a panel for each split. Differences of the three logits '
    'are kept. The panels of a model share their limits; those of different '
    'models do not.'
  ),
  'mean_plane': (
    '{data}. Penultimate features of the classes {classes}, projected on the '
    'plane through the three class means, centred, as the figures of Zhou et '
    'al. (2025) were made, turned so that the first class is on top; at most '
    '{per_class} examples of each class, a panel for each split. The panels of '
    'a model share their limits; those of different models do not.'
  ),
}


def _project(m: Measured, kind: str, options: Options) -> dict[str, Any]:
  chosen = {}
  for part, outputs in (('train', m.train), ('test', m.outputs)):
    if outputs is not None and outputs.features is not None:
      rows = _chosen(outputs, options)
      chosen[part] = outputs.features, outputs.labels, rows
  # The basis is that of the training split, where there is one.
  features, labels, _ = next(iter(chosen.values()))
  if kind == 'template_plane':
    weights: Any = m.outputs.weights
    plane = projection.template_plane(
      weights, options.classes, bias=m.outputs.bias
    )
  else:
    plane = projection.class_mean_plane(features, labels, options.classes)
    plane = plane.upright()
  return {
    part: (plane.project(x[rows]), y[rows])
    for part, (x, y, rows) in chosen.items()
  }


def _chosen(outputs: Outputs, options: Options) -> np.ndarray:
  """At most so many examples of each class, drawn by the first seed."""
  random = np.random.default_rng(options.seeds[0])
  rows = []
  for c in options.classes:
    of_class = np.flatnonzero(outputs.labels == c)
    if not len(of_class):
      raise UsageError(
        f'{outputs.path} has no examples of {outputs.class_name(c)}'
      )
    rows.append(random.permutation(of_class)[:_PER_CLASS])
  return np.sort(np.concatenate(rows))


def _seen(drawn: Mapping[str, Any], names: list[str], options: Options) -> str:
  """How far the clouds are apart, over how wide they are."""
  told = []
  for model, panels in drawn.items():
    for part, (xy, labels) in panels.items():
      clouds = [xy[labels == c] for c in options.classes]
      means = np.array([c.mean(0) for c in clouds])
      apart = np.linalg.norm(means - np.roll(means, 1, 0), axis=1).mean()
      wide = np.sqrt(np.mean([c.var(0).sum() for c in clouds]))
      ratio = blocks.number(float(apart / wide), 2) if wide else 'infinitely'
      told.append(f'{model}, {part}: {ratio} times')
  return (
    f'Points of three classes, {", ".join(names)}. Their means are apart, in '
    f'units of the spread within a class: {"; ".join(told)}.'
  )


def _draw(
  drawn: Mapping[str, Any], names: list[str], options: Options
) -> Figure:
  parts = list(dict.fromkeys(p for panels in drawn.values() for p in panels))
  shown_as = blocks.short_names(list(drawn))
  with _style.style():
    # A model's panels stay side by side.
    columns = 2 if len(drawn) < 3 else 4
    figure, axes = _style.panels(
      len(drawn) * len(parts), columns=columns, height=6.6 / columns
    )
    drawn_on = set()
    for i, (model, panels) in enumerate(drawn.items()):
      points = np.concatenate([p for p, _ in panels.values()])
      center = (points.max(0) + points.min(0)) / 2
      half = 1.08 * max((points.max(0) - points.min(0)).max() / 2, 1e-12)
      for j, (part, (xy, labels)) in enumerate(panels.items()):
        ax = axes[i * len(parts) + j]
        drawn_on.add(ax)
        for c, color, marker, name in zip(
          options.classes, _CLASS_COLORS, 'o^s', names
        ):
          look: dict[str, Any] = {
            'color': color,
            'marker': marker,
            'label': blocks.short(name),
          }
          x, y = xy[labels == c].T
          ax.scatter(x, y, s=9, linewidths=0, alpha=0.6, **look)
        (left, bottom), (right, top) = center - half, center + half
        ax.set(xlim=(left, right), ylim=(bottom, top), aspect='equal')
        title = shown_as[model] + (f'\n{part}' if len(parts) > 1 else '')
        ax.set_title(title, fontsize=8.5)
    for ax in set(axes) - drawn_on:
      ax.remove()  # a model without that split
    shown = next(ax for ax in axes if ax in drawn_on)
    handles, labels = shown.get_legend_handles_labels()
    _style.legend(figure, handles, labels)
  return figure
