"""A study of translation: what objectives do to next tokens and to BLEU.

  python -m experiments.study --config=configs/study_phrases.py \
    --workdir=runs/study_phrases --jobs=2

Arguments, after a colon and separated by commas:

  data=phrases    generated phrases whose truth is known; or multi30k: real
                  captions, in files that you have
  dir=multi30k    where these are: train.en.gz, train.de.gz,
                  test_2016_flickr.en.gz and test_2016_flickr.de.gz
  seeds=5         so many, from 0
  debug=false     true: two seeds, a few steps each of a few phrases, to see
                  that it runs

The recipes are those of configs/translation.py, tiny as they are, with
cross-entropy, label smoothing, MaxSup and, of phrases, the logit penalty.
Unlike of images, many training tokens stay wrong to the end, where MaxSup and
label smoothing have different gradients. Translations are those of a beam
search of 4 at temperature 1. No checkpoint is chosen by the test split;
temperatures are fitted on half of it, for the other half. BLEU needs
`pip install "maxsup_jax[translation]"`; so do the subwords of multi30k.
"""

from configs import common, translation
from maxsup_jax.studies import claims
from maxsup_jax.studies.measures import OF_TRUTH
from maxsup_jax.studies.study import Study

TITLES = {'phrases': 'generated phrases', 'multi30k': 'Multi30k'}
ABOUT = {
  'phrases': (
    '12,000 training and 1,000 test phrases from a grammar that knows all '
    'their translations; words as tokens; two layers of width 64, 2,000 steps. '
    'Its language is small: what is learned of it says little about others.'
  ),
  'multi30k': (
    '29,000 captions of training, and the 1,000 of test_2016_flickr; 2,000 '
    'subwords; two layers of width 64, 7 epochs: far from what is known to be '
    'possible.'
  ),
}


def get_study(arg=None):
  args = common.parse_arg(
    arg, data=('phrases', 'multi30k'), dir='multi30k', seeds=5, debug=False
  )
  phrases = args.data == 'phrases'

  def run(loss):
    data = 'phrases' if phrases else 'lines'
    debug = str(args.debug).lower()
    config = translation.get_config(f'data={data},loss={loss},debug={debug}')
    if not phrases and not args.debug:
      train, test = (
        f'{args.dir}/{split}.en.gz,{args.dir}/{split}.de.gz'
        for split in ('train', 'test_2016_flickr')
      )
      config.dataset.name, config.dataset.eval_split = f'lines:{train}', test
      config.duration = '7 epochs'
      config.eval_every = config.checkpoint_every = '1 epochs'
    return config

  losses = ('ce', 'ls', 'maxsup', *(('logit_penalty',) if phrases else ()))
  variants = {loss: run(loss) for loss in losses}
  return Study(
    name=args.data,
    title=f'Objectives on {TITLES[args.data]}',
    about=ABOUT[args.data],
    variants=variants,
    seeds=tuple(range(2 if args.debug else args.seeds)),
    claims=tuple(
      c
      for c in claims.among(variants, claims=claims.TRANSLATION)
      if phrases or c.measure not in OF_TRUTH
    ),
    extras=(),
  )
