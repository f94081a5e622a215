"""The CIFAR nets of He et al. and their published weights, beside PyTorch."""

import pathlib

import jax
import numpy as np
import pytest

from maxsup_jax import data
from maxsup_jax.models import create_model, torch_weights
from maxsup_jax.tasks.images import normalize

torch = pytest.importorskip('torch')
F = torch.nn.functional
SHARED = pathlib.Path(__file__).parents[3] / 'shared/data'


def reference(weights, blocks, images):
  """Logits [N, K] in PyTorch's functions, of a state dict of tensors."""

  def norm(x, name):
    keys = ('running_mean', 'running_var', 'weight', 'bias')
    return F.batch_norm(x, *(weights[f'{name}.{k}'] for k in keys))

  x = F.conv2d(images, weights['conv1.weight'], padding=1)
  x = F.relu(norm(x, 'bn1'))
  for stage in (1, 2, 3):
    for i in range(blocks):
      name, stride = f'layer{stage}.{i}', 2 if stage > 1 and i == 0 else 1
      y = F.conv2d(x, weights[f'{name}.conv1.weight'], None, stride, 1)
      y = F.relu(norm(y, f'{name}.bn1'))
      y = norm(
        F.conv2d(y, weights[f'{name}.conv2.weight'], padding=1), f'{name}.bn2'
      )
      if stride == 2:
        quarter = y.shape[1] // 4
        x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
      x = F.relu(x + y)
  return F.linear(
    x.mean((2, 3)), weights['linear.weight'], weights['linear.bias']
  )


def ours(name, state_dict, images):
  model = create_model(name, 10)
  like = jax.eval_shape(model.init, jax.random.key(0), images[:1])
  assert torch_weights.count_classes(state_dict, model) == 10
  variables = torch_weights.from_torch(state_dict, model, like)
  return jax.jit(lambda x: model.apply(variables, x)[0])(images)


def test_a_checkpoint_of_a_training_script(tmp_path):
  """As published: a NumPy number beside weights with DataParallel's prefix."""
  generator = torch.Generator().manual_seed(0)
  model = create_model('resnet20_a', 10)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, 32, 32, 3))
  )
  weights = {}
  for place in torch_weights.names_of(model, shapes).places:
    name = place.name.replace('fc.', 'linear.')
    value = torch.rand(place.shape, generator=generator)
    size = value[0].numel() ** 0.5
    weights[name] = value + 0.5 if value.ndim == 1 else (value - 0.4) / size
  path = tmp_path / 'checkpoint.th'
  saved = {f'module.{n}': v for n, v in weights.items()}
  torch.save({'state_dict': saved, 'best_prec1': np.float64(91.7)}, path)
  images = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
  images = images.astype(np.float32)
  expected = reference(weights, 3, torch.from_numpy(images).permute(0, 3, 1, 2))
  np.testing.assert_allclose(
    ours('resnet20_a', torch_weights.read(path), images), expected, rtol=1e-4
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('file', 'blocks', 'wrong'),
  [('resnet20-12fca82f', 3, 1897), ('resnet56-4bfd9763', 9, 1680)],
)
def test_published_weights(file, blocks, wrong):
  """On JPEG copies of CIFAR-10's test images."""
  path = SHARED / f'weights/{file}.th'
  if not path.exists():
    pytest.skip('the published weights are not here')
  source = data.open_source(
    'cifar10', 'test', data_dir=SHARED / 'tfds', in_memory=True
  )
  pixels = np.stack([source[i]['image'] for i in range(len(source))])
  images = np.array(
    normalize(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
  )
  weights = torch.load(path, 'cpu', weights_only=True)['state_dict']
  weights = {n.removeprefix('module.'): v for n, v in weights.items()}
  state_dict, found, expected = torch_weights.read(path), [], []
  for start in range(0, 10_000, 500):
    batch = images[start : start + 500]
    found.append(ours(f'resnet{6 * blocks + 2}_a', state_dict, batch))
    with torch.no_grad():
      nchw = torch.from_numpy(batch).permute(0, 3, 1, 2)
      expected.append(reference(weights, blocks, nchw).numpy())
  found, expected = np.concatenate(found), np.concatenate(expected)
  assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()
  assert (found.argmax(1) == expected.argmax(1)).all()
  labels = source.labels()
  assert (found.argmax(1) != labels).sum() == wrong
