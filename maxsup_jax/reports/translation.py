"""The figure of translations: BLEU, NLL and ECE against the temperature."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maxsup_jax.errors import UsageError
from maxsup_jax.reports import _style

# In a record: the number and the range; and what stands on the axis.
_PANELS = {
  'bleu': ('bleu_interval', 'BLEU'),
  'nll': ('nll_interval', 'NLL of next tokens, nats'),
  'ece': ('ece_calibrated', 'ECE of next tokens, %'),
}


def read_curve(path: str | os.PathLike) -> dict[str, Any]:
  """Reads what `experiments.translate --split` has written.

  Raises:
    UsageError: if it is not such a file, or it does not hold all three numbers.
  """
  try:
    found = json.loads(Path(path).read_text())
    for record in found['temperatures']:
      float(record['temperature'])
      for name, (interval, _) in _PANELS.items():
        float(record[name])
        if interval in record:
          record[interval] = [float(end) for end in record[interval]]
    if not found['temperatures']:
      raise ValueError
    return {**found, 'workdir': str(found['workdir'])}
  except OSError as e:
    raise UsageError(f'{path} cannot be read: {e.strerror}') from None
  except (ValueError, LookupError, TypeError):
    raise UsageError(
      f'{path} has no {", ".join(_PANELS)} by temperature; expected what '
      'experiments.translate --split=... --out=FILE writes, with sacreBLEU'
    ) from None


def temperatures(paths: Sequence[str | os.PathLike]) -> bytes:
  """Each run's numbers against the temperature, as PNG.

  Bands are the 95% intervals of BLEU and NLL over draws of sentences; that of
  the ECE is what a calibrated model would give. The dotted line is the fitted
  temperature. What a file lacks is not drawn.

  Args:
    paths: a file for each run, see `read_curve`; the runs are called by the
      last part of their directories.

  References:
    Müller et al. 2019, *When does label smoothing help?*, Figure 4.
  """
  curves = [read_curve(path) for path in paths]
  with _style.style():
    figure, axes = _style.panels(len(_PANELS))
    for ax, (name, (interval, label)) in zip(axes, _PANELS.items()):
      lines = []
      for i, curve in enumerate(curves):
        records = sorted(curve['temperatures'], key=lambda r: r['temperature'])
        scale = 100 if name == 'ece' else 1
        x = [r['temperature'] for r in records]
        if all(r.get(interval) for r in records):
          low, high = scale * np.array([r[interval] for r in records]).T
          _style.band(ax, x, low, high, _style.color(i), 0.15)
        if name == 'nll' and (
          T := (curve.get('fitted') or {}).get('temperature')
        ):
          ax.axvline(T, color=_style.color(i), linewidth=0.8, linestyle=':')
        lines += ax.plot(
          x,
          [scale * r[name] for r in records],
          marker=_style.marker(i),
          markersize=3,
          **_style.line(i),
        )
      ax.set_xlabel('temperature')
      ax.set_ylabel(label)
    # An invisible space before, as matplotlib drops labels that begin with _.
    names = [f'\u200b{Path(curve["workdir"]).name}' for curve in curves]
    _style.legend(figure, lines, names)
    return _style.png(figure)
