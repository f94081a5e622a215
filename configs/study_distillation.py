"""The distillation of Müller et al. on generated letters, with MaxSup teachers.

  python -m experiments.study --config=configs/study_distillation.py \
    --workdir=runs/study_distillation --jobs=2

Arguments, after a colon and separated by commas:

  seeds=3      so many, from 0; the paper has 5
  debug=false  true: two seeds, a few steps each, to see that it runs

The four curves of their Figure 5, at the same strengths and temperatures, and
one that nobody has published:

  ls_A               teachers with label smoothing of A% (ls_0: cross-entropy)
  student_ls_A       students that have no teacher, with label smoothing
  student_of_ls_0_T  students of the hard teacher at temperature T
  student_of_ls_A    students of teachers with label smoothing, at temperature 1
  maxsup_A, student_of_maxsup_A: teachers with MaxSup, and their students

The page draws accuracy against the effective smoothing of the targets. Teachers
are ResNet-8 of width 16, students of width 4, ten epochs on 10,000 letters of
16x16 pixels; the paper has a ResNet-56 and an AlexNet on CIFAR-10. All losses
have the weight 1, where the paper multiplies by 3. It was not run.
"""

import dataclasses

from configs import common, study_glyphs
from maxsup_jax.studies import claims
from maxsup_jax.studies.study import TEACHER, Study

STRENGTHS = (0, 15, 30, 45, 60, 75)
TEMPERATURES = (2, 3, 4, 8, 12, 16)


def get_study(arg=None):
  args = common.parse_arg(arg, seeds=3, debug=False)
  base = study_glyphs.get_study('debug=true' if args.debug else None).variants

  def run(loss, percent=None, teacher=None, temperature=1.0):
    config = base['ls'].copy_and_resolve_references()
    config.objective = common.objective(loss)
    if percent is not None:
      config.objective.alpha = percent / 100
    if teacher:
      config.teacher = TEACHER + teacher
      config.objective.teacher_temperature = float(temperature)
    config.keep_checkpoints = 1
    return config

  def student(config):
    config.model.width = 4
    return config

  variants = {}
  for a in STRENGTHS:
    variants[f'ls_{a}'] = run('ls', a)
    variants[f'student_ls_{a}'] = student(run('ls', a))
    of = run('distillation', teacher=f'ls_{a}')
    variants[f'student_of_ls_{a}'] = student(of)
    if a:
      variants[f'maxsup_{a}'] = run('maxsup', a)
      of = run('distillation', teacher=f'maxsup_{a}')
      variants[f'student_of_maxsup_{a}'] = student(of)
  for t in TEMPERATURES:
    of = run('distillation', teacher='ls_0', temperature=t)
    variants[f'student_of_ls_0_{t}'] = student(of)
  known = {c.name: c for c in claims.PAPERS}

  def about(name, variant, baseline, suffix):
    claim = known[name]
    return dataclasses.replace(
      claim, name=name + suffix, variant=variant, baseline=baseline
    )

  tested = []
  for a in STRENGTHS[1:]:
    pair = f'student_of_ls_{a}', 'student_of_ls_0'
    tested.append(about('distillation-ls', *pair, f'-{a}'))
    pair = f'student_of_ls_{a}', f'student_ls_{a}'
    tested.append(about('distillation-baseline', *pair, f'-{a}'))
    pair = f'student_of_maxsup_{a}', f'student_of_ls_{a}'
    tested.append(about('distillation-maxsup', *pair, f'-{a}'))
  return Study(
    name='distillation',
    title='Distillation from smoothed teachers',
    about=(
      '10,000 training and 5,000 test letters of 16x16 pixels; teachers '
      'ResNet-8 of width 16, students of width 4.'
    ),
    variants=variants,
    seeds=tuple(range(2 if args.debug else args.seeds)),
    claims=tuple(tested),
    extras=(),
  )
