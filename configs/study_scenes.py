"""A study of segmentation: what objectives do to pixels of generated scenes.

  python -m experiments.study --config=configs/study_scenes.py \
    --workdir=runs/study_scenes --jobs=2

Arguments, after a colon and separated by commas:

  seeds=3      so many, from 0
  debug=false  true: two seeds, a few steps each, to see that it runs

The recipe is that of configs/glyph_scenes.py, but for 8 epochs, not 15, so that
it ends on two cores. Losses are of every pixel alone: cross-entropy, label
smoothing and MaxSup. Selective classification is of 1,000
pixels of each test scene, the same ones for all runs; temperatures and norms
are fitted on half of the scenes, for the others.
"""

from configs import common, glyph_scenes
from maxsup_jax.studies import claims
from maxsup_jax.studies.study import Study

LOSSES = ('ce', 'ls', 'maxsup')


def get_study(arg=None):
  args = common.parse_arg(arg, seeds=3, debug=False)

  def run(loss):
    if args.debug:
      return glyph_scenes.get_config(f'loss={loss},debug=true')
    config = glyph_scenes.get_config(f'loss={loss}')
    config.duration = '8 epochs'
    config.eval_every = config.checkpoint_every = '4 epochs'
    return config

  variants = {loss: run(loss) for loss in LOSSES}
  return Study(
    name='scenes',
    title='Objectives on generated scenes, pixel by pixel',
    about=(
      '1,000 training and 500 test scenes of 64x64 pixels: five letters and '
      'background; DeepLabV3+ on a ResNet-8 from scratch, 8 epochs.'
    ),
    variants=variants,
    seeds=tuple(range(2 if args.debug else args.seeds)),
    claims=claims.among(variants, claims=claims.SEGMENTATION),
    extras=(),
  )
