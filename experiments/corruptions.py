"""Evaluates trained networks on corrupted images: CIFAR-10-C, ImageNet-C.

  python -m experiments.corruptions --workdir=runs/maxsup --out=corruptions
  python -m experiments.corruptions --workdir=runs/ce --workdir=runs/ls \
    --workdir=runs/maxsup --out=corruptions

For each of 15 corruptions and 5 severities (Hendrycks and Dietterich, 2019) it
measures error, NLL and ECE of the whole dataset, and of the run's own
evaluation split, which has no corruption. The datasets are those of tfds, named
`cifar10_corrupted/fog_3` and the like; they must have been prepared.

Into --out it writes results.json, with the means over all datasets and their
standard deviation over corruptions, results.csv, with a line for each dataset,
the picture corruptions.png, and results.jsonl, to which each dataset is added
as soon as it is finished: after an interruption the same command goes on from
there, and more corruptions, severities or runs may be asked for later.

NLL is plain cross-entropy, and ECE has 15 bins over all examples of a dataset.
The numbers of Table 8 of MaxSup (Zhou et al., NeurIPS 2025) are others: as its
code computes them, the NLL is the training objective, so with the smoothed
labels of LS and the penalty of MaxSup, and the ECE is that of 100 images,
averaged, which is larger.

The images of imagenet2012_corrupted are 224x224 already. Where corrupted images
have the size that the model sees and clean ones do not, what the run's
`eval_transform` only does for the size (resize, resize_exact, center_crop) is
left out; --transform says something else, '' nothing at all.

All devices of one process are used; several processes are refused.
"""

import json
import pathlib
import sys

from absl import flags

from experiments import _cli, _compilation, _processes

_WORKDIR = flags.DEFINE_multi_string(
  'workdir', [], 'A run to evaluate; once for each run, to compare them.'
)
_DATASET = flags.DEFINE_string(
  'dataset',
  None,
  'cifar10_corrupted or imagenet2012_corrupted; by default that of the dataset '
  'that the runs were trained on.',
)
_CORRUPTIONS = flags.DEFINE_list(
  'corruptions',
  [],
  "Names, or 'all' for the 15 standard ones and the 4 extra ones; by default "
  'the standard ones.',
)
_SEVERITIES = flags.DEFINE_list(
  'severities', ['1', '2', '3', '4', '5'], 'From 1 to 5.'
)
_TRANSFORM = flags.DEFINE_string(
  'transform',
  None,
  "What is done to corrupted images instead of the run's eval_transform, such "
  "as 'resize(256) | center_crop(224)'; see above.",
)
_STEP = flags.DEFINE_integer(
  'step', None, "Which checkpoint of every run; by default each one's newest."
)
_WEIGHTS = flags.DEFINE_enum(
  'weights', 'raw', ['raw', 'ema'], 'The weights as trained, or averaged ones.'
)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'The directory of the results; for a single run by default '
  'WORKDIR/corruptions/DATASET-STEP, or -ema.',
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, "Where datasets are; tfds's own default if not given."
)

flags.declare_key_flag('compilation_cache')


def main():
  workdirs, out = _WORKDIR.value, _OUT.value
  if not workdirs:
    raise _cli.UsageError('--workdir is needed: the directory of a run')
  if len(workdirs) > 1 and not out:
    raise _cli.UsageError(
      '--out is needed with several runs: the directory of the results'
    )
  _processes.refuse_several('corruptions')

  from experiments import _corruption_data, _corruptions
  from experiments import _corruption_results as results
  from maxsup_jax.training.workdir import Workdir

  names = _corruptions.names_of(workdirs)
  configs = [Workdir(w, writes=False).config() for w in workdirs]
  benchmark = _corruption_data.choose_benchmark(
    _DATASET.value, [c.dataset.name for c in configs]
  )
  corruptions = _corruption_data.choose_corruptions(
    _CORRUPTIONS.value, benchmark
  )
  severities = _corruption_data.choose_severities(_SEVERITIES.value)
  sizes = _corruption_data.check_prepared(
    benchmark,
    corruptions,
    severities,
    _DATA_DIR.value,
    mock=configs[0].dataset.mock,
  )
  runs = [
    _corruptions.restore(
      workdir,
      name=name,
      benchmark=benchmark,
      first=next(iter(sizes)),
      data_dir=_DATA_DIR.value,
      step=_STEP.value,
      weights=_WEIGHTS.value,
      transform=_TRANSFORM.value,
    )
    for workdir, name in zip(workdirs, names)
  ]
  directory = pathlib.Path(out or _default_out(workdirs[0], runs[0].identity))
  log = results.Log(directory)
  _compilation.keep_compiled(pathlib.Path(workdirs[0]))
  with log.opened():
    log.add_runs({r.name: r.identity for r in runs})
    try:
      _evaluate(runs, benchmark, sizes, log)
    except KeyboardInterrupt:
      print(
        f'interrupted; what is finished is in {directory}; the same command '
        'goes on',
        file=sys.stderr,
      )
      return 130
    _report(runs, benchmark, sizes, log, directory)
  return 0


def _evaluate(runs, benchmark, sizes, log):
  """Evaluates what is not in the log yet."""
  from experiments import _corruption_data, _corruptions

  done = {
    (r['run'], r['corruption'], r['severity'])
    for r in log.records()
    if r['kind'] == 'eval'
  }
  wanted, total, finished = {}, 0, 0
  for trained in runs:
    own = {
      (_corruption_data.CLEAN, 0): len(trained.run.eval_source),
      **sizes,
    }
    wanted[trained.name] = [d for d in own if (trained.name, *d) not in done]
    total += sum(own.values())
    finished += sum(n for d, n in own.items() if (trained.name, *d) in done)
  with _corruptions.progress_bar(total, finished) as progress:
    for trained in runs:
      _corruptions.evaluate_all(
        trained,
        benchmark,
        wanted[trained.name],
        _DATA_DIR.value,
        progress,
        log.add,
      )


def _report(runs, benchmark, sizes, log, directory):
  """Writes and prints what the log says of these runs and datasets."""
  from experiments import _corruption_data, _corruption_figure
  from experiments import _corruption_results as results
  from maxsup_jax.training.provenance import provenance
  from maxsup_jax.training.workdir import write_atomically

  found = {
    (r['run'], r['corruption'], r['severity']): r
    for r in log.records()
    if r['kind'] == 'eval'
  }
  names = [r.name for r in runs]
  cleans = {n: found[n, _corruption_data.CLEAN, 0] for n in names}
  records = {n: [found[n, *d] for d in sizes] for n in names}
  summaries = {n: results.summarize(records[n]) for n in names}
  mock = runs[0].run.config.dataset.mock
  title = benchmark.name + ('' if mock is None else ', made up')
  text = json.dumps(
    {
      'kind': 'corruptions',
      'dataset': title,
      'split': benchmark.split,
      'definitions': results.DEFINITIONS,
      **provenance(),
      'runs': [
        {
          'name': r.name,
          **r.identity,
          'clean_split': r.run.eval_source.name,
          'clean': _numbers(cleans[r.name]),
          **summaries[r.name],
          'datasets': [_numbers(d) for d in records[r.name]],
        }
        for r in runs
      ],
    },
    indent=2,
    allow_nan=False,
  )
  first = runs[0]
  caption = (
    f'{title}: each cell a dataset of '
    f'{next(iter(sizes.values())):,} images; ECE with 15 bins; '
    f'{"averaged weights of " if first.weights == "ema" else ""}step '
    f'{", ".join(dict.fromkeys(format(r.identity["step"], ",") for r in runs))}'
  )
  picture = _corruption_figure.heat_maps(records, cleans, caption)
  rows = [r for n in names for r in (cleans[n], *records[n])]
  write_atomically(directory / 'results.csv', results.to_csv(rows))
  _write_picture(directory / 'corruptions.png', picture)
  write_atomically(directory / 'results.json', text + '\n')
  if len(runs) == 1:
    name = names[0]
    print(f'\n{results.table_of_run(cleans[name], summaries[name])}')
  else:
    print(f'\n{results.table_of_runs(cleans, summaries)}')
  corruptions = len(summaries[names[0]]['by_corruption'])
  print(
    f'\nmeans over {corruptions} corruptions x {len(sizes) // corruptions} '
    f'severities of {title}; written to {directory}'
  )


def _numbers(record):
  return {k: v for k, v in record.items() if k not in ('kind', 'run')}


def _write_picture(path, content):
  temporary = path.with_name(f'.{path.name}')
  temporary.write_bytes(content)
  temporary.replace(path)


def _default_out(workdir, identity):
  ema = '-ema' if identity['weights'] == 'ema' else ''
  name = f'{identity["dataset"]}-{identity["step"]}{ema}'
  return pathlib.Path(workdir) / 'corruptions' / name


if __name__ == '__main__':
  _cli.run(main)
