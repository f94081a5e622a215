"""Records what every run card trains, bit for bit, and compares two records.

To see that a change leaves all results alone, on one machine:

  python -m tests.same_results record before.json    # at the old commit
  python -m tests.same_results record after.json     # at the new one
  python -m tests.same_results compare before.json after.json

A record holds, for each card in debug mode and a few more runs, the lines of
`metrics.jsonl` without times and the SHA-256 of every array of the last
checkpoint. Runs that are in the file already are not repeated.
"""

import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

CARDS = (
  'digits:debug=true',
  'digits:debug=true,model=vit_tiny',
  'glyphs:debug=true',
  'imagenet_convnet:debug=true',
  'imagenet_convnet:debug=true,model=resnet18,recipe=b,loss=ols',
  'imagenet_convnet:debug=true,model=mobilenet_v2,recipe=b',
  'imagenet_deit:debug=true',
  'imagenet_deit:debug=true,mix=true,repeats=3,loss=ls',
  'imagenet_selective:debug=true',
  'imagenet_selective:debug=true,model=vit_small',
  'cifar_selective:debug=true,data=cifar100,held_out=true',
  'cifar100_maxsup:debug=true,loss=logit_penalty',
  'cifar10_long_tailed:debug=true',
  'cifar10_long_tailed:debug=true,head=linear,imbalance=10,loss=focal',
  'cifar10_corruptions:debug=true',
  'neural_collapse:debug=true',
  'neural_collapse:debug=true,data=stl10,augment=pc',
  'muller:debug=true',
  'muller:debug=true,data=cifar100,model=resnet56_t2t',
  'fine_grained:debug=true',
  # On real images: averages, diagnostics and every objective without a teacher.
  'digits --config.ema_decay=0.9 --config.diagnostics_every=2epochs '
  '--config.duration=4epochs',
  *(
    f'digits:loss={loss} --config.duration=3epochs'
    for loss in ('ce', 'ls', 'ols', 'zipf', 'logit_penalty', 'mbls', 'acls')
  ),
)
# Of a line of metrics.jsonl, what depends on the clock.
TIMES = ('seconds', 'images_per_second', 'examples_per_second')


def arrays(directory: pathlib.Path) -> dict[str, str]:
  """The SHA-256 of every array of the newest checkpoint."""
  import jax
  import orbax.checkpoint as ocp

  newest = max(int(p.name) for p in (directory / 'checkpoints').iterdir())
  state = ocp.PyTreeCheckpointer().restore(
    directory / 'checkpoints' / str(newest) / 'state'
  )
  return {
    jax.tree_util.keystr(path): hashlib.sha256(x.tobytes()).hexdigest()
    for path, x in jax.tree_util.tree_leaves_with_path(state)
  }


def run(card: str, directory: pathlib.Path, data: pathlib.Path) -> dict:
  """Trains with a card, and says what came out."""
  name, *flags = card.split()
  name, *argument = name.split(':')
  path = f'configs/{name}.py' + ''.join(f':{a}' for a in argument)
  flags = [flag.replace('epoch', ' epoch') for flag in flags]
  subprocess.run(
    [
      *(sys.executable, '-m', 'experiments.train', f'--config={path}', *flags),
      *(f'--workdir={directory}', f'--data_dir={data}'),
    ],
    check=True,
    capture_output=True,
  )
  lines = (directory / 'metrics.jsonl').read_text().splitlines()
  metrics = [json.loads(line) for line in lines]
  for line in metrics:
    for time in TIMES:
      line.pop(time, None)
  return {'metrics': metrics, 'arrays': arrays(directory)}


def record(out: str) -> None:
  """Adds to a file what is not in it yet."""
  path = pathlib.Path(out)
  found = json.loads(path.read_text()) if path.exists() else {}
  with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    for number, card in enumerate(CARDS):
      if card not in found:
        found[card] = run(card, scratch / str(number), scratch / 'data')
        path.write_text(json.dumps(found))
        print(f'{number + 1} of {len(CARDS)}: {card}', flush=True)


def compare(a: str, b: str) -> int:
  """Prints what differs between two records, and counts it."""
  first, second = (json.loads(pathlib.Path(p).read_text()) for p in (a, b))
  different = [
    f'{card}: {what} differ'
    for card in CARDS
    for what in ('metrics', 'arrays')
    if first[card][what] != second[card][what]
  ]
  print('\n'.join(different) or f'all {len(CARDS)} runs agree bit for bit')
  return len(different)


if __name__ == '__main__':
  if sys.argv[1:2] == ['record'] and len(sys.argv) == 3:
    record(sys.argv[2])
  elif sys.argv[1:2] == ['compare'] and len(sys.argv) == 4:
    sys.exit(1 if compare(*sys.argv[2:]) else 0)
  else:
    sys.exit(__doc__)
