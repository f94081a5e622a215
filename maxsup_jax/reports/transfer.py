"""The figure of linear transfer: accuracy against the strength."""

from collections.abc import Sequence

from maxsup_jax.diagnostics.transfer import LinearProbe
from maxsup_jax.reports import _style


def strengths(names: Sequence[str], probes: Sequence[LinearProbe]) -> bytes:
  """Accuracy held out against the strength, for each run, as PNG.

  A marker shows the strength that was chosen, a dotted line the accuracy on the
  test examples.
  """
  with _style.style():
    figure, (ax,) = _style.panels(1, height=3.4)
    lines = []
    for i, probe in enumerate(probes):
      shares = 100 * probe.held_out_accuracy
      lines += ax.plot(probe.strengths, shares, **_style.line(i))
      at = list(probe.strengths).index(probe.strength)
      ax.plot(
        probe.strength, shares[at], _style.marker(i), color=_style.color(i)
      )
      ax.axhline(
        100 * probe.accuracy, color=_style.color(i), ls=':', lw=0.8, zorder=1
      )
    ax.set_xscale('log')
    # Powers would be drawn by mathtext, which names of models must not reach.
    ax.xaxis.set_major_formatter(lambda value, _: f'{value:g}')
    ax.set_xlabel('strength of the penalty λ')
    ax.set_ylabel('accuracy held out, %')
    _style.legend(figure, lines, [_shown(name) for name in names])
    return _style.png(figure)


def _shown(name: str) -> str:
  # matplotlib leaves labels out that begin so.
  return f'\u200b{name}' if name.startswith('_') else name
