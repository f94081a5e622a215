"""English to German with a Transformer, and any objective.

  python -m experiments.train --config=configs/translation.py:loss=ls

Arguments, after a colon and separated by commas:

  data=phrases    generated phrases whose truth is known; lines: two text files,
                  named by --config.dataset.name=lines:TRAIN.en,TRAIN.de and
                  --config.dataset.eval_split=VAL.en,VAL.de; or wmt: tfds
                  wmt_t2t_translate/de-en, which must be prepared
  loss=maxsup     ce, ls or any other key of configs.common.OBJECTIVES
  size=default    tiny, small or base; by default tiny of phrases and lines,
                  base of wmt
  seed=0
  debug=false     a few steps at tiny size, on a few phrases, whatever the data

Label smoothing is that of the `others` convention, as in tensor2tensor, whose
`transformer_base` data=wmt follows: Adam, 4,096 tokens for each device (set
--config.batch_size to the product), 300,000 steps, no averaging. Müller et al.
trained it without and with smoothing of 0.1. Ours has 32,768 subwords of
sentencepiece, where tensor2tensor has its own, and six widths of batches, where
it has 41; it was not run.

data=lines is the smallest net that learns Multi30k: two layers of width 64,
2,000 subwords, no dropout. data=phrases takes all words of its grammar, so it
needs nothing but this package.
"""

from configs import common
from maxsup_jax.tasks.config import default_config


def get_config(arg=None):
  args = common.parse_arg(
    arg,
    data=('phrases', 'lines', 'wmt'),
    loss='maxsup',
    size=('default', 'tiny', 'small', 'base'),
    seed=0,
    debug=False,
  )
  config = default_config('translation')
  config.seed = args.seed
  config.objective = common.objective(args.loss)
  if config.objective.name == 'ls':
    config.objective.convention = 'others'
  size = args.size
  if size == 'default':
    size = 'base' if args.data == 'wmt' else 'tiny'
  config.model = {'name': f'transformer_{size}', 'dtype': 'float32'}
  config.log_every = '100 steps'
  if args.data == 'phrases':
    config.duration = '2000 steps'
    config.eval_every = config.checkpoint_every = '500 steps'
  elif args.data == 'lines':
    # Its name is for the user to give.
    config.dataset.name = 'lines:train.en,train.de'
    config.dataset.eval_split = 'val.en,val.de'
    config.dataset.vocabulary = 'bpe'
    config.dataset.vocabulary_size = 2000
    config.dataset.buckets = (18, 26, 44)
    config.batch_size = 768
    config.duration = '10 epochs'
  else:
    config.dataset.name = 'wmt_t2t_translate/de-en'
    config.dataset.eval_split = 'validation'
    config.dataset.vocabulary = 'bpe'
    config.dataset.vocabulary_size = 2**15
    config.dataset.buckets = (16, 24, 36, 64, 128, 256)
    config.batch_size = config.eval_batch_size = 4096
    config.duration = '300000 steps'
    # The peak is 2 / sqrt(512 * 8000).
    config.optimizer.learning_rate = 2 * 512**-0.5 * 8000**-0.5
    config.optimizer.b2 = 0.997
    config.schedule.warmup = '8000 steps'
    config.eval_every = config.checkpoint_every = '5000 steps'
    config.keep_checkpoints = 5
  if args.debug:
    config.dataset.update(
      {
        'name': 'phrases/200x40',
        'eval_split': 'test',
        'vocabulary': 'words',
        'vocabulary_size': 1000,
        'buckets': (24,),
      }
    )
    config.batch_size = config.eval_batch_size = 384
    config.duration = '4 steps'
    config.schedule.warmup = '1 step'
    config.log_every = '1 step'
    config.eval_every = config.checkpoint_every = '4 steps'
  return config
