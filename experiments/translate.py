"""Translates with a trained run, or measures its translations.

  python -m experiments.translate --workdir=DIR --in=FILE > translations
  echo 'half past four' | python -m experiments.translate --workdir=DIR
  python -m experiments.translate --workdir=DIR --split=test \
    --temperatures=0.8,1,1.2 --out=curve.json

Lines of --in, or of the standard input, are translated to the standard output,
line by line; with several --temperatures, the translations stand side by side,
tabs between them. --references=FILE says what they are worth.

With --split, a split of the run's data is translated and measured at each
temperature: BLEU (sacreBLEU, lower case, with its signature), the length ratio,
and NLL and ECE of next tokens after the true beginnings; of `phrases` also the
share of valid translations. A temperature is fitted on half of the sentences
and measured on the others. --out also has intervals, from draws of sentences,
and NLL and ECE of the first 10,000 tokens. --curves draws several such files:

  python -m experiments.translate --curves=ce.json,ls.json --out=figure.png

--beams=1 is the greedy translation, which no temperature changes.
"""

import json
import sys

from absl import flags

from experiments import _cli, _processes

_WORKDIR = flags.DEFINE_string('workdir', None, 'The run that translates.')
_IN = flags.DEFINE_string(
  'in', None, 'A text file, plain or gzip; by default the standard input.'
)
_REFERENCES = flags.DEFINE_string(
  'references', None, 'A file of as many translations to compare with.'
)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'With --split: also write the numbers to this file, as JSON. With --curves: '
  'the figure, a .png.',
)
_CURVES = flags.DEFINE_list(
  'curves', None, 'Files of --out, one for each run, to draw in one figure.'
)
_BEAMS = flags.DEFINE_integer(
  'beams', 4, 'Hypotheses that live; 1 for greedy.', lower_bound=1
)
_ALPHA = flags.DEFINE_float(
  'alpha', 0.6, 'The exponent of the length penalty.', lower_bound=0
)
flags.DEFINE_list('temperatures', ['1'], 'What the logits are divided by.')
_AVERAGE = flags.DEFINE_integer(
  'average', None, 'Average the weights of so many checkpoints.', lower_bound=1
)
_cli.define_run_flags()


def main():
  _processes.refuse_several('translate', '')
  from maxsup_jax import errors

  if _CURVES.value:
    return _draw()
  temperatures = _cli.numbers('temperatures', float)
  for temperature in temperatures:
    errors.number('temperatures', temperature, above=0)
  _cli.check_runs(_cli.needed('workdir'))
  given = _cli.values('step', 'split', 'weights')
  measures = given['split'] is not None
  for flag in ('in', 'references') if measures else ('out',):
    if flags.FLAGS[flag].value is not None:
      raise errors.UsageError(
        f'--{flag} is given; expected '
        + ('no --split beside it' if measures else '--split beside it')
      )
  from maxsup_jax import files, tasks
  from maxsup_jax.data import text
  from maxsup_jax.tasks import translating

  out = files.check_writable(_OUT.value) if _OUT.value else None
  references = _REFERENCES.value and text.read_lines(_REFERENCES.value)
  lines = text.read_lines(_IN.value) if _IN.value else None
  loaded = tasks.load_run(
    _WORKDIR.value, data_dir=flags.FLAGS.data_dir, **given
  )
  translating.translation_of(loaded)
  _cli.keep_compiled(loaded.workdir.path)
  variables = None
  if _AVERAGE.value:
    variables = translating.averaged(loaded, _AVERAGE.value)
  if measures:
    return _measure(loaded, variables, temperatures, out)
  translator = translating.Translator(
    loaded, beams=_BEAMS.value, alpha=_ALPHA.value, variables=variables
  )
  if lines is None and sys.stdin.isatty():
    for line in sys.stdin:
      print(*_translate(translator, [line.strip()], temperatures)[0], sep='\t')
    return 0
  if lines is None:
    lines = text.decoded_lines(sys.stdin.buffer.read(), 'the standard input')
  columns = _translate(translator, lines, temperatures)
  for row in columns:
    print(*row, sep='\t')
  if references is not None:
    for i, temperature in enumerate(temperatures):
      found = translating.score([row[i] for row in columns], references)
      print(f'T {temperature:g}: {_shown(found)}', file=sys.stderr)
  return 0


def _draw():
  from maxsup_jax import files
  from maxsup_jax.reports import translation

  out = _cli.needed('out', 'the figure')
  files.check_ending(out, ['.png'])
  out = files.check_writable(out)
  files.write(out, translation.temperatures(_CURVES.value))
  print(out)
  return 0


def _translate(translator, lines, temperatures):
  """For each line its translation at each temperature."""
  from tqdm import tqdm

  with tqdm(
    total=len(lines) * len(temperatures),
    unit=' lines',
    file=sys.stderr,
    disable=len(lines) < 2,
  ) as progress:
    columns = [
      translator(lines, temperature=t, progress=progress.update)
      for t in temperatures
    ]
  return list(zip(*columns))


def _measure(loaded, variables, temperatures, out):
  from tqdm import tqdm

  from maxsup_jax import files
  from maxsup_jax.tasks import translating

  total = len(loaded.task.eval_pairs) * len(temperatures)
  with tqdm(total=total, unit=' lines', file=sys.stderr) as progress:
    content = translating.temperature_curve(
      loaded,
      temperatures,
      beams=_BEAMS.value,
      alpha=_ALPHA.value,
      variables=variables,
      progress=progress.update,
    )
  for record in content['temperatures']:
    names = translating.Score._fields
    found = translating.Score(*(record[name] for name in names))
    line = f'T {record["temperature"]:g}: {_shown(found)}'
    if 'valid' in record:
      line += f', valid {record["valid"]:.2%}'
    print(f'{line}, {loaded.task.headline(record)}')
  if fit := content['fitted']:
    print(_fitted(fit, content['sentences']))
  if out:
    files.write(out, json.dumps(content, indent=2) + '\n')
  return 0


def _fitted(fit, sentences):
  T = fit['temperature']
  found = 'no best T from 0.5 to 2' if T is None else f'best T {T:.3f}'
  line = (
    f'fitted on {fit["sentences"]:,} sentences: {found} (of the ECE '
    f'{fit["ece_temperature"]:g})'
  )
  if T is None:
    return line
  return (
    f'{line}; the other {sentences - fit["sentences"]:,}: NLL '
    f'{fit["nll"]:.4f} -> {fit["nll_scaled"]:.4f}, ECE {fit["ece"]:.2%} -> '
    f'{fit["ece_scaled"]:.2%}'
  )


def _shown(found):
  bleu = found.signature
  if found.bleu is not None:
    bleu = f'BLEU {found.bleu:.2f} ({bleu})'
  return f'{bleu}, length ratio {found.length_ratio:.3f}'


if __name__ == '__main__':
  _cli.run(main)
