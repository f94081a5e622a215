"""The cards of segmentation, whose data are images with label maps."""

import json

import jax
import numpy as np
import pytest

from configs import common
from maxsup_jax import losses, models, outputs, tasks
from maxsup_jax.data import decoding
from maxsup_jax.data.preprocessing import parse_transform
from maxsup_jax.errors import UsageError
from maxsup_jax.models import count_parameters
from maxsup_jax.training import loop
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.schedules import learning_rate_schedule
from tests.configs.cards import SEGMENTATION, docstring, get_config


def values(card):
  for argument, choices in SEGMENTATION[card].items():
    for choice in choices:
      # Cross-entropy has no alpha.
      loss = ',loss=ls' if argument in ('alpha', 'smoothing') else ''
      yield f'{argument}={choice}{loss}'
  yield from (f'loss={loss}' for loss in common.OBJECTIVES)
  yield 'seed=7'


@pytest.mark.parametrize('card', SEGMENTATION)
def test_every_argument_gives_a_configuration(card):
  with pytest.raises(UsageError, match='known: ') as e:
    get_config(card, 'no_such_argument=1')
  known = str(e.value).partition('known: ')[2].split(', ')
  names = {pair.partition('=')[0] for pair in known}
  free = {'loss', 'seed', 'debug', 'mock'}
  assert names - free == set(SEGMENTATION[card])
  for name in names:
    assert f'{name}=' in docstring(card), name
  found = {}
  for arg in values(card):
    for debug in ('', ',debug=true'):
      config = tasks.resolve(get_config(card, arg + debug))
      tasks.check_names(config)
      losses.make_objective(
        config.objective.to_dict(),
        num_classes=100,
        steps_per_epoch=10,
        epochs=5,
        axis_name='devices',
      )
      for transform in ('train_transform', 'eval_transform'):
        parse_transform(
          config.dataset[transform],
          mean=config.dataset.mean,
          std=config.dataset.std,
          labels=True,
        )
      found[arg + debug] = json.dumps(config.to_dict())
  # Each argument has an effect, but for its default.
  for argument, (default, *others) in SEGMENTATION[card].items():
    loss = ',loss=ls' if argument in ('alpha', 'smoothing') else ''
    for other in others:
      one, two = (f'{argument}={x}{loss}' for x in (default, other))
      assert found[one] != found[two], (one, two)


def test_ade20k_is_the_recipe_of_mmsegmentation():
  config = get_config('ade20k_upernet')
  assert (config.batch_size, config.duration) == (16, '160000 steps')
  assert (config.objective.name, config.denominator) == ('ce', 'all')
  assert config.auxiliary_weight == 0.4
  optimizer, schedule = config.optimizer, config.schedule
  assert (optimizer.name, optimizer.weight_decay) == ('adamw', 0.01)
  assert set(optimizer.decay) == {*common.EVERYTHING} - {'embedding'}
  assert (schedule.name, schedule.warmup) == ('linear', '1499 steps')
  rate = learning_rate_schedule(
    'linear',
    optimizer.learning_rate,
    total_steps=5000,
    warmup_steps=1499,
    warmup_start=schedule.warmup_start,
  )
  for i in (0, 1, 700, 1499, 1500, 3000, 4999):
    expected = 6e-5 * (1e-6 + (1 - 1e-6) * i / 1499)
    if i > 1499:
      expected = 6e-5 * (1 - (i - 1500) / (5000 - 1501))
    assert float(rate(i)) == pytest.approx(expected, abs=2e-8), i
  assert get_config('ade20k_upernet', 'pretrain=runs/a').init_from == 'runs/a'


def test_cityscapes_is_the_recipe_of_the_authors():
  config = get_config('cityscapes_deeplab', 'loss=ls')
  assert (config.batch_size, config.duration) == (16, '30000 steps')
  assert config.objective.alpha == 0.2
  optimizer = config.optimizer
  assert (optimizer.learning_rate, optimizer.weight_decay) == (1e-2, 1e-4)
  assert (optimizer.momentum, optimizer.nesterov) == (0.9, False)
  assert (config.schedule.name, config.schedule.per) == ('linear', 'epoch')
  assert config.denominator == 'valid'


@pytest.mark.slow
@pytest.mark.parametrize(
  ('card', 'classes', 'size', 'parameters'),
  [
    ('ade20k_upernet', 150, (512, 512, 3), 57_995_180),
    ('cityscapes_deeplab', None, (512, 512, 3), 58_753_459),
    ('camvid', None, (64, 64, 3), 534_998),
  ],
)
def test_full_sizes(card, classes, size, parameters):
  config = tasks.resolve(get_config(card))
  with config.unlocked():
    config.dataset.mock = 32
    if classes:
      config.dataset.num_classes = classes
      config.dataset.reduce_zero_label = True
  run = tasks.build(config, devices=Devices(jax.devices()[:1]))
  assert run.task.image_shape == size
  assert count_parameters(run.shapes.params) == parameters


@pytest.mark.slow
@pytest.mark.parametrize('card', SEGMENTATION)
def test_cards_train(card, tmp_path):
  config = tasks.resolve(get_config(card, 'debug=true'))
  assert config.model.name in models.SEGMENTERS
  run = tasks.build(
    config,
    data_dir=str(tmp_path / 'data'),
    devices=Devices(jax.devices()[:1]),
  )
  (record,) = loop.train(run, tasks.open_workdir(tmp_path / 'run', writes=True))
  assert record['step'] == 4
  assert np.isfinite([record[n] for n in ('miou', 'nll', 'ece')]).all()


@pytest.mark.slow
def test_programs_train_segment_and_diagnose(run_program, tmp_path):
  workdir, out = tmp_path / 'run', tmp_path / 'out'
  data_dir = f'--data_dir={tmp_path / "data"}'
  card = 'configs/glyph_scenes.py:debug=true,model=deeplabv3plus_resnet8'
  code, text, err = run_program(
    'train', f'--config={card}', f'--workdir={workdir}', data_dir
  )
  assert code == 0, err
  assert 'mIoU' in text
  asked = ('segment', f'--workdir={workdir}', data_dir)
  code, text, err = run_program(
    *asked, f'--out={out}', '--predictions', '--pictures=2', '--crop=16'
  )
  assert code == 0, err
  found = json.loads((out / 'segmentation.json').read_text())
  assert [row['name'] for row in found['classes']][:2] == ['background', 'O']
  assert f'mIoU {found["miou"]:.2%}' in text
  assert len(list((out / 'predictions').iterdir())) == found['images'] == 16
  ids, _ = decoding.decode_ids((out / 'predictions/000003.png').read_bytes())
  assert ids.shape == (32, 32)
  assert (out / 'pictures.png').read_bytes().startswith(b'\x89PNG')
  for wrong, message in (
    (['--pictures=1'], '--out is needed'),
    (['--views=mmseg0'], "views is 'mmseg0', which needs scale"),
    (['--scale=9,x'], '--scale is 9,x; expected whole numbers'),
  ):
    code, _, err = run_program(*asked, *wrong)
    assert code == 2
    assert message in err
  npz = tmp_path / 'pixels.npz'
  code, _, err = run_program(
    'extract',
    f'--workdir={workdir}',
    data_dir,
    '--limit=50',
    f'--out={npz}',
  )
  assert code == 0, err
  assert np.bincount(outputs.read(npz).groups).tolist() == [50] * 16
  code, _, err = run_program('diagnose', str(npz), f'--out={tmp_path / "page"}')
  assert code == 0, err
