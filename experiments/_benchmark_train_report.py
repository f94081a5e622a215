"""The record of the suite `train` as text."""

from typing import Any

from experiments import _benchmark_text as text

# On a GPU our step is to be at least as fast.
TARGET = 1.0

_LABEL_WIDTH, _COLUMN_WIDTH = 24, 14


def describe(record: dict[str, Any]) -> str:
  """What ran on what, a table for each model, and what it means.

  Args:
    record: as written to JSON.

  Returns:
    Lines of at most 80 columns.
  """
  lines = _header(record)
  for name, row in record['results']['models'].items():
    lines += ['', *_table(name, row), *_notes(name, row, record)]
  on_cpu = record['results']['on_cpu']
  if on_cpu is not None:
    lines += ['', *_on_cpu(on_cpu)]
  return '\n'.join(lines)


def _on_cpu(measured):
  lines = text.wrapped(
    'What XLA offers on a CPU: a residual block of ResNet-50 with input '
    f'{measured["shape"]}, and convolutions, forwards and backwards; times '
    'over the first of each'
  )
  for part, title in (
    ('options', 'options of XLA'),
    ('pointwise', 'convolution of 1x1'),
    ('layout', 'convolution of 3x3'),
  ):
    lines.append(f'{title:<{_LABEL_WIDTH}}{"ms":>10}{"ratio":>10}  quartiles')
    lines += [
      f'  {name:<{_LABEL_WIDTH - 2}}{1e3 * row["seconds"]["median"]:>10.1f}'
      f'{row["ratio"]["median"]:>10.3f}  '
      + text.quartiles(row['ratio'], 1, '.3f')
      for name, row in measured[part].items()
    ]
  return lines


def _header(record):
  settings, results = record['settings'], record['results']
  size = settings['image_size']
  lines = text.wrapped(
    f'The training step with MaxSup, {settings["dtype"]}, {size}x{size} '
    f'images, {settings["batch_size"]} in a step, on one '
    f'{results["device_kind"]}',
    *text.machine(record),
    f'PyTorch {settings["torch"]}, {settings["torch_threads"]} thread(s); '
    f'{settings["rounds"]} rounds of {settings["steps_per_round"]} step(s) of '
    'each in turn',
  )
  rates = results['matrix_flops_per_second']
  if rates is not None:
    lines += text.wrapped(
      'A product of matrices: '
      + ', '.join(
        f'{name} {text.with_prefix(x, "FLOP/s")}' for name, x in rates.items()
      )
    )
  return lines


def _table(title, row):
  programs = row['programs']

  def line(label, cell):
    cells = [cell(x) for x in programs.values()]
    return f'{label:<{_LABEL_WIDTH}}' + ''.join(
      f'{c:>{_COLUMN_WIDTH}}' for c in cells
    )

  def ratio(form):
    def cell(program):
      over = program.get('torch_over_jax')
      return '1' if over is None else form(over)

    return cell

  def rate(program):
    value = program['flops_per_second_per_device']
    return text.UNKNOWN if value is None else f'{value / 1e9:,.1f}'

  def share(program):
    value = program['share_of_peak']
    return text.UNKNOWN if value is None else f'{value:.1%}'

  heading = f'{title:<{_LABEL_WIDTH}}' + ''.join(
    f'{name:>{_COLUMN_WIDTH}}' for name in programs
  )
  lines = [
    heading,
    line('step, ms', lambda x: f'{1e3 * x["step_seconds"]["median"]:.1f}'),
    line(
      '  quartiles', lambda x: text.quartiles(x['step_seconds'], 1e3, '.0f')
    ),
    line('images/s', lambda x: f'{x["images_per_second"]:,.1f}'),
    line('time over that of jax', ratio(lambda x: f'{x["median"]:.3f}')),
    line('  quartiles', ratio(lambda x: text.quartiles(x, 1, '.2f'))),
    line('GFLOP/s, as written', rate),
    line('  share of the peak', share),
  ]
  if any(x.get('peak_memory_bytes') for x in programs.values()):
    lines.append(line('peak memory', _memory))
  return lines


def _memory(program):
  used = program.get('peak_memory_bytes')
  return '-' if used is None else text.with_prefix(used, 'B')


def _notes(name, row, record):
  over = row['torch_over_jax']
  words = [
    f"{name}: PyTorch's fastest, {row['reference']}, takes "
    f'{over["median"]:.3f} times as long as JAX (quartiles '
    f'{text.quartiles(over, 1, ".3f")}); {verdict(over, record)}'
  ]
  words += [f'{x} not run: {why}' for x, why in row['not_run'].items()]
  memory = row['jax_program']['memory_bytes_per_device']
  if memory:
    words.append(
      'JAX, memory of the compiled step: '
      + text.with_prefix(memory['total'], 'B')
    )
  bound, limit = row['bound'], row['bound']['limit']
  if limit is not None:
    words.append(
      f'JAX takes at least {1e3 * bound["step_seconds"]:.1f} ms by the '
      f"compiler's counts, of which {limit} decides"
    )
  return text.wrapped(*words)


def verdict(ratio: dict[str, Any], record: dict[str, Any]) -> str:
  """Whether the target is met, which is for GPUs alone."""
  if record['hardware']['platform'] == 'cpu':
    return 'on a CPU there is no target'
  met = ratio['median'] >= TARGET
  return f'the target, at least {TARGET:g}, is {"met" if met else "missed"}'
