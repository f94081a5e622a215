"""Film reviews: the LSTM of Xia et al., or a minute on generated phrases.

Xia et al., Towards Understanding Why Label Smoothing Degrades Selective
Classification and How to Fix It, ICLR 2025 (arXiv 2403.14715), from the
authors' code.

  python -m experiments.train --config=configs/imdb.py:loss=ls \
    --config.dataset.vectors=glove.840B.300d.txt
  python -m experiments.train --config=configs/imdb.py:data=phrases
  python -m experiments.train --config=configs/imdb.py:debug=true

and then `experiments.extract` and `experiments.diagnose` on the work directory,
for risk and coverage.

  data=imdb       tfds imdb_reviews, which must be prepared: 25,000 reviews to
                  train on and as many to test; or phrases: 12,000 and 1,000
                  German phrases, about half with two neighbours swapped
  smoothing=0.6   the alpha of ls, maxsup and the rows of its ablation
  loss=ls         ce, maxsup or any other key of configs.common.OBJECTIVES
  alpha=constant  linear and linear_last are for comparison, not this paper's
  seed=0, debug=false: see configs/common.py; debug=true: four steps at tiny
                  size, on a few phrases

Their numbers, error / AURC in %, binary scores max(sigma, 1 - sigma):

  IMDB, alpha 0.6               ce 12.6 / 4.10   ls 12.3 / 4.51

An LSTM of 256 on word vectors of 300, its last state, dropout .2, 256 with
ReLU, dropout .2, 128 with ReLU, one logit: 670,209 parameters beside the
vectors. Adam, rate 1e-3 (constant), 10 epochs, batch 64, no decay; fp16 there,
float32 here.

  * Their vectors are GloVe's, frozen; so are ours with dataset.vectors=FILE.
    Without it they are learned.
  * They cut texts with NLTK; here words and marks are tokens, the 50,000 most
    frequent ones of training. Both read 256 tokens at most.
  * They read the output after the last of 256 positions also where a text has
    ended before; here that of its last token.
  * Their README says alpha 0.2.

data=phrases has the same net with vectors of 32, an LSTM of 64 and layers of 32
and 16, which reads 24 tokens.

Hardware there: unknown; time: unknown. Here: docs/own.md has what phrases came
to. IMDB was not run.
"""

from configs import common
from maxsup_jax.tasks.config import default_config


def get_config(arg=None):
  args = common.parse_arg(
    arg,
    data=('imdb', 'phrases'),
    smoothing=0.6,
    loss='ls',
    alpha=('constant', 'linear', 'linear_last'),
    seed=0,
    debug=False,
  )
  config = default_config()
  config.seed = args.seed
  config.duration = '10 epochs'
  config.batch_size = 64
  config.eval_batch_size = 256
  config.model = {'name': 'lstm', 'dtype': 'float32', 'single_logit': True}
  if args.data == 'imdb':
    config.dataset.name = 'imdb_reviews'
    config.dataset.image_key = 'text'
    config.dataset.length = 256
    config.model.vocabulary_size = 50_000
  if args.data == 'phrases' or args.debug:
    config.dataset.name = 'swapped_phrases'
    config.dataset.length = 24
    config.model.update(
      {'vocabulary_size': 1000, 'dim': 32, 'hidden': 64, 'widths': (32, 16)}
    )
  config.objective = common.objective(
    args.loss, args.alpha, smoothing=args.smoothing, usual=0.6
  )
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 0.0
  config.schedule.name = 'constant'
  config.log_every = '1 epoch'
  config.eval_every = config.checkpoint_every = '5 epochs'
  if args.debug:
    config.dataset.name = 'swapped_phrases/64x32'
    common.debug(config, mock=False)
  return config
