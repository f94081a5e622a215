"""The card of translation: its arguments are not those of images."""

import json

import pytest

from configs import common
from maxsup_jax import losses, models, tasks
from maxsup_jax.errors import UsageError
from tests.configs.cards import get_config

ARGUMENTS = [
  *(f'data={data}' for data in ('phrases', 'lines', 'wmt')),
  *(f'size={size}' for size in ('tiny', 'small', 'base')),
  *(f'loss={loss}' for loss in common.OBJECTIVES),
  *('seed=7', 'data=wmt,debug=true'),
]


def test_every_argument_gives_a_configuration():
  found = set()
  for arg in ARGUMENTS:
    config = tasks.resolve(get_config('translation', arg))
    tasks.check_names(config)
    assert config.model.name in models.TRANSFORMERS
    losses.make_objective(
      config.objective.to_dict(),
      num_classes=100,
      steps_per_epoch=10,
      epochs=5,
      axis_name='devices',
    )
    found.add(json.dumps(config.to_dict()))
  # Two are the default: data=phrases, size=tiny and loss=maxsup.
  assert len(found) == len(ARGUMENTS) - 2
  assert get_config('translation', 'loss=ls').objective.convention == 'others'
  with pytest.raises(UsageError, match='expected phrases, lines, wmt'):
    get_config('translation', 'data=wmt14')


def test_wmt_is_the_recipe_of_tensor2tensor():
  config = get_config('translation', 'data=wmt,loss=ls')
  assert config.model.name == 'transformer_base'
  assert config.optimizer.learning_rate == pytest.approx(9.88e-4, rel=1e-3)
  assert (config.optimizer.b1, config.optimizer.b2) == (0.9, 0.997)
  assert (config.optimizer.eps, config.optimizer.weight_decay) == (1e-9, 0)
  assert config.schedule.warmup == '8000 steps'
  assert config.objective.alpha == 0.1


@pytest.mark.slow
def test_programs_train_and_translate(run_program, tmp_path):
  workdir, out = tmp_path / 'run', tmp_path / 'curve.json'
  card = 'configs/translation.py:debug=true'
  code, _, err = run_program(
    'train', f'--config={card}', f'--workdir={workdir}'
  )
  assert code == 0, err
  lines = tmp_path / 'lines'
  lines.write_text('half past four\n\n')
  common = ('translate', f'--workdir={workdir}', '--beams=2')
  code, text, err = run_program(
    *common, f'--in={lines}', '--temperatures=1,2', f'--references={lines}'
  )
  assert code == 0, err
  assert text.count('\n') == 2
  assert text.splitlines()[1] == '\t'
  assert 'length ratio' in err
  code, text, err = run_program(
    *common, '--split=test', '--temperatures=1,2', f'--out={out}'
  )
  assert code == 0, err
  *lines, fitted = text.splitlines()
  assert [line[:4] for line in lines] == ['T 1:', 'T 2:']
  assert fitted.startswith('fitted on 20 sentences: ')
  records = json.loads(out.read_text())['temperatures']
  assert records[0]['accuracy'] == records[1]['accuracy']
  assert {'bleu', 'signature', 'valid', 'nll', 'ece'} <= set(records[0])
  for wrong, message in (
    (['--in=no'], 'no cannot be read'),
    (['--temperatures=0'], 'temperatures is 0.0'),
    ([f'--out={out}'], 'expected --split beside it'),
  ):
    code, _, err = run_program(*common, *wrong)
    assert code == 2
    assert message in err
