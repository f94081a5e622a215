"""A study on scikit-learn's digits: what objectives do where nothing is hard.

  python -m experiments.study --config=configs/study_digits.py \
    --workdir=runs/study_digits --jobs=2

Arguments, after a colon and separated by commas:

  seeds=5      so many, from 0
  debug=false  true: two seeds, a few steps each, to see that it runs

The recipe is that of configs/digits.py, with cross-entropy, label smoothing,
MaxSup and the logit penalty; students of a quarter of the width are distilled
from the first three (targets of the teacher alone, temperature 1, as in
Müller et al.), and trained with label smoothing for comparison. Transfer is to
generated letters of the same size.

All methods classify nearly every training image correctly, where MaxSup and
label smoothing have the same gradient: what differs between them here comes
from the first epochs.
"""

from configs import common, digits
from maxsup_jax.studies import claims
from maxsup_jax.studies.study import TEACHER, Study, Transfer

LOSSES = ('ce', 'ls', 'maxsup', 'logit_penalty')


def get_study(arg=None):
  args = common.parse_arg(arg, seeds=5, debug=False)

  def run(loss, **model):
    config = digits.get_config(f'loss={loss}')
    config.log_every = '1 epoch'
    # Diagnostics of both splits, and a checkpoint for the information there.
    config.eval_every = config.checkpoint_every = '3 epochs'
    config.diagnostics_every = '3 epochs'
    config.keep_checkpoints = 100
    config.model.update(model)
    return common.debug(config) if args.debug else config

  variants = {loss: run(loss) for loss in LOSSES}
  variants['student_ls'] = run('ls', width=4)
  for teacher in ('ce', 'ls', 'maxsup'):
    student = run('distillation', width=4)
    student.teacher = TEACHER + teacher
    variants[f'student_of_{teacher}'] = student
  letters = '26x200x100_16_easy' if args.debug else '26x1000x1000_16_easy'
  return Study(
    name='digits',
    title='Objectives on scikit-learn digits',
    about=(
      '1,442 training and 355 test images of 8x8 pixels; ResNet-8 of width 16, '
      '30 epochs of SGD. One test image is 0.28 points of accuracy, so '
      'accuracies near 99% tell little; geometry and calibration tell more.'
    ),
    variants=variants,
    seeds=tuple(range(2 if args.debug else args.seeds)),
    claims=claims.among(variants),
    transfer=Transfer(
      f'glyphs/{letters}',
      image_size=8,
      strengths=tuple(10.0**e for e in range(-1, 5)),
    ),
  )
