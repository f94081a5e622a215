"""A study on generated letters, with true labels and with wrong ones.

  python -m experiments.study --config=configs/study_glyphs.py \
    --workdir=runs/study_glyphs --jobs=2

Arguments, after a colon and separated by commas:

  seeds=5      so many, from 0
  noise=true   false: only the runs with true labels; both may share a directory
  debug=false  true: two seeds, a few steps each, to see that it runs

10,000 letters of 16x16 pixels, of medium difficulty, ten epochs of the recipe
of configs/glyphs.py: many training examples stay wrong, so that MaxSup and
label smoothing differ. The variants whose names end with _noise are trained
with 20% wrong labels (symmetric), and measured with the true ones. Transfer is
to lower-case letters and digits besides.
"""

from configs import common, glyphs
from maxsup_jax.studies import claims
from maxsup_jax.studies.study import Study, Transfer

LOSSES = ('ce', 'ls', 'maxsup', 'logit_penalty')
NOISE = 0.2


def get_study(arg=None):
  args = common.parse_arg(arg, seeds=5, noise=True, debug=False)

  def run(loss, noise):
    debug = ',debug=true' if args.debug else ''
    sizes = '' if args.debug else ',size=16,test=5000'
    config = glyphs.get_config(f'loss={loss}{sizes}{debug}')
    if not args.debug:
      config.duration = '10 epochs'
      config.schedule.warmup = '1 epochs'
      config.log_every = '1 epoch'
      config.eval_every = config.checkpoint_every = '2 epochs'
      config.diagnostics_every = '2 epochs'
    config.keep_checkpoints = 100
    if noise:
      config.dataset.label_noise = NOISE
    return config

  variants = {
    loss + suffix: run(loss, bool(suffix))
    for suffix in ('', '_noise')[: 1 + args.noise]
    for loss in LOSSES
  }
  letters = '62x200x100_16_easy' if args.debug else '62x2000x2000_16_easy'
  about = (
    '10,000 training and 5,000 test letters of 16x16 pixels in 26 classes, '
    'drawn from fonts with clutter; ResNet-8 of width 16, 10 epochs of SGD.'
  )
  if args.noise:
    about += (
      ' Names with _noise: 20% of the training labels are wrong; measures are '
      'taken with true labels, but for NC over training.'
    )
  return Study(
    name='glyphs_noise' if args.noise else 'glyphs',
    title='Objectives on generated letters'
    + (', with and without label noise' if args.noise else ''),
    about=about,
    variants=variants,
    seeds=tuple(range(2 if args.debug else args.seeds)),
    claims=(
      *claims.among(variants),
      *claims.among(variants, '_noise', 'with 20% wrong labels'),
    ),
    transfer=Transfer(
      f'glyphs/{letters}', strengths=tuple(10.0**e for e in range(-1, 5))
    ),
  )
