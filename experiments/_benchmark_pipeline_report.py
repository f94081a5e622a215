"""The record of the suite `pipeline` as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments import _benchmark_text as text

_TITLES = {
  'pil': "PIL, in torchvision's steps",
  'torchvision': 'torchvision on PIL',
  'torchvision, tensors': 'torchvision on tensors (v2)',
}
# What a training image passes, in this order; of several ways the last that is
# there.
_PATH = (
  ('read and parse',),
  ('draw the crop',),
  ('decode down to the crop',),
  ('resize, PIL', 'resize, Numba'),
  ('flip',),
  ('stack',),
)
_WIDTH = 34


def describe(record: dict[str, Any]) -> str:
  """What ran on what, the tables, and what they mean.

  Args:
    record: as written to JSON.

  Returns:
    Lines of at most 80 columns.
  """
  s, results = record['settings'], record['results']
  size = s['image_size']
  installed = [name for name, there in s['installed'].items() if there]
  return '\n'.join(
    [
      *text.wrapped(
        f'{s["photos"]} JPEG files of {s["mean_bytes"] / 1e3:.0f} KB on '
        f'average, 500x375 and a few other sizes: crops of {s["photographs"]}. '
        f'Batches of {s["batch_size"]}, {size}x{size}; {s["rounds"]} rounds of '
        f'{s["steps_per_round"]} batch(es) of each in turn. Installed: '
        f'{", ".join(installed) or "none of the optional packages"}',
        *text.machine(record),
        'On one core: processor time. On all: time on the clock.',
      ),
      *_table(
        'one core, random_resized_crop | flip', results['per_core']['variants']
      ),
      *_table(
        'one core, resize | center_crop', results['evaluation']['variants']
      ),
      *_table(
        f'all {s["cpus"]} CPUs, random_resized_crop | flip',
        results['all_cores']['variants'],
      ),
      *_stage_table(results),
      '',
      *_notes(results),
    ]
  )


def _table(title: str, variants: Mapping[str, Any]) -> list[str]:
  lines = [
    '',
    f'{title:<{_WIDTH + 6}}{"images/s":>9}{"x PIL":>7}{"quartiles":>13}',
  ]
  for name, variant in variants.items():
    speedup = variant['speedup']
    lines.append(
      f'  {_TITLES.get(name, name):<{_WIDTH + 4}}'
      f'{variant["images_per_second"]:>9,.0f}{speedup["median"]:>7.2f}'
      f'{text.quartiles(speedup, 1, ".2f"):>13}'
    )
  return lines


def _stage_table(results: Mapping[str, Any]) -> list[str]:
  seconds = results['stages']['seconds_per_image']
  ours = results['per_core']['variants']['ours']['seconds_per_image']['median']
  on_path = _stages_on_path(seconds)
  lines = [
    '',
    f'{"one stage alone, one core":<{_WIDTH + 6}}{"us/image":>9}'
    f'{"share":>7}{"quartiles":>13}',
  ]
  rest = ours
  for name in [*on_path, *(n for n in seconds if n not in on_path)]:
    t = seconds[name]
    share = f'{t["median"] / ours:.0%}' if name in on_path else ''
    rest -= t['median'] if name in on_path else 0
    lines.append(
      f'  {name:<{_WIDTH + 4}}{1e6 * t["median"]:>9.0f}{share:>7}'
      f'{text.quartiles(t, 1e6, ".0f"):>13}'
    )
    if name == on_path[-1]:
      # The whole has its own turns, and may come out below its parts.
      if rest >= 0:
        lines.append(
          f'  {"all of the rest":<{_WIDTH + 4}}{1e6 * rest:>9.0f}'
          f'{rest / ours:>7.0%}'
        )
      lines.append('  other ways:')
  return lines


def _stages_on_path(seconds: Mapping[str, Any]) -> Sequence[str]:
  """The stages that `train_batches` runs, with what is installed."""
  return [[n for n in ways if n in seconds][-1] for ways in _PATH]


def _notes(results: Mapping[str, Any]) -> list[str]:
  seconds = results['stages']['seconds_per_image']
  speedup = results['per_core']['variants']['ours']['speedup']
  target = results['target']['speedup_at_least']
  met = 'met' if speedup['median'] >= target else 'missed'
  decoder = 1 / seconds['decode down to the crop']['median']
  same = 'are' if results['same_pixels'] else 'ARE NOT'
  missing = {
    name: reason
    for part in ('per_core', 'evaluation', 'all_cores')
    for name, reason in results[part]['missing'].items()
  }
  return text.wrapped(
    f'Target: {target:g} times PIL on one core: {met}, {speedup["median"]:.2f} '
    f'(quartiles {text.quartiles(speedup, 1, ".2f")}).',
    'Limit: the decoder. With nothing else to do it would give '
    f'{decoder:,.0f} images/s.',
    f'The pixels {same} the same with and without simplejpeg and Numba. '
    "interpolation='area', torchvision on tensors and tf.data have others.",
    *(f'Not measured: {n} ({reason})' for n, reason in missing.items()),
  )
