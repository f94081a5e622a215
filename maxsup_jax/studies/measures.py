"""What a study measures of each run: names, headings, and which way is good."""

from types import MappingProxyType
from typing import NamedTuple


class Measure(NamedTuple):
  """One number of a run.

  Attributes:
    title: the heading of its row.
    form: 'percent' for shares, 'number' for the rest.
    better: 1 if more is better, -1 if less is, 0 if neither.
    meaning: how it is computed.
  """

  title: str
  form: str
  better: int
  meaning: str


# Those of translation that need true distributions.
OF_TRUTH = ('valid', 'kl_to_truth', 'true_calibration')
MEASURES = MappingProxyType(
  {
    'accuracy': Measure(
      'accuracy', 'percent', 1, 'of the evaluation split, last checkpoint'
    ),
    'train_accuracy': Measure(
      'accuracy, training split',
      'percent',
      0,
      'in evaluation mode, without augmentation, true labels',
    ),
    'nll': Measure('NLL', 'number', -1, 'plain cross-entropy, in nats'),
    'brier': Measure('Brier score', 'number', -1, 'from 0 to 2'),
    'ece': Measure('ECE', 'percent', -1, '15 bins of equal width'),
    'ece_scaled': Measure(
      'ECE after temperature scaling',
      'percent',
      -1,
      'temperature of least NLL on one half, ECE of the other half',
    ),
    'nll_scaled': Measure(
      'NLL after temperature scaling', 'number', -1, 'of the same half'
    ),
    'log_temperature': Measure(
      'log of the temperature',
      'number',
      0,
      'that temperature; above 0 the model is overconfident',
    ),
    'aurc': Measure(
      'AURC', 'percent', -1, 'by the maximum softmax probability'
    ),
    'augrc': Measure('AUGRC', 'percent', -1, 'of the same ranking'),
    'naurc': Measure(
      'NAURC', 'number', -1, '0 for a perfect ranking, 1 for a random one'
    ),
    'auroc': Measure('AUROC of failures', 'percent', 1, 'of the same ranking'),
    'pnorm_gain': Measure(
      'AURC gained by the p-norm',
      'percent',
      1,
      'norm chosen on one half; AURC of the maximum softmax probability less '
      'that of MaxLogit-pNorm, on the other half',
    ),
    'top_logit': Measure(
      'top logit', 'number', 0, 'less the mean logit, mean over the examples'
    ),
    'near_zero': Measure(
      'logits near 0', 'percent', 0, 'the share below 0.01 in absolute value'
    ),
    'top_logit_gap': Measure(
      'top logit, correct less wrong',
      'number',
      0,
      'at equal confidence: mean over windows of width 0.05 that hold both, '
      'over the standard deviation of the top logit',
    ),
    'suppression_gap': Measure(
      'pressure on the top logit, correct less wrong',
      'number',
      0,
      'mean gradient that the objective adds to that of cross-entropy',
    ),
    'within': Measure(
      'variation within classes',
      'number',
      0,
      'cosine distance of training features',
    ),
    'r_squared': Measure(
      'R² of the features',
      'number',
      0,
      '1 less the ratio of the distances within classes and among all',
    ),
    'nc1': Measure('NC1', 'number', 0, 'of training features'),
    'nc2': Measure('NC2', 'number', 0, 'of training features and weights'),
    'nc3': Measure('NC3', 'number', 0, 'of training features and weights'),
    'nc1_path': Measure(
      'log10 NC1 over training',
      'number',
      0,
      'mean over the measured epochs, with the labels of training: lower where '
      'NC1 falls faster',
    ),
    'h_norm': Measure(
      'norm of class means', 'number', 0, 'of training features, centred'
    ),
    'cluster_spread': Measure(
      'spread of clusters',
      'number',
      0,
      'of training features of classes 0, 1, 2 in the plane of their '
      'templates: root mean square distance from the class mean, over the '
      'mean distance of the class means',
    ),
    'information': Measure(
      'mutual information',
      'number',
      0,
      'of a training example and the difference of two logits, in nats, '
      'cross-fitted, last checkpoint',
    ),
    'transfer': Measure(
      'linear transfer', 'percent', 1, 'accuracy on the other dataset'
    ),
    'transfer_neighbours': Measure(
      'nearest neighbours, transfer', 'percent', 1, '20 neighbours there'
    ),
    'corrupted_error': Measure(
      'error, corrupted', 'percent', -1, 'mean over corruptions and severities'
    ),
    'corrupted_ece': Measure(
      'ECE, corrupted', 'percent', -1, 'mean over corruptions and severities'
    ),
    'teacher_smoothing': Measure(
      'effective smoothing of the teacher',
      'number',
      0,
      'γ of Müller et al.: the share of wrong classes in its targets',
    ),
    # Of segmentation.
    'miou': Measure(
      'mIoU', 'percent', 1, 'mean over the classes, at the size of evaluation'
    ),
    'macc': Measure(
      'mean accuracy of the classes', 'percent', 1, 'each counts alike'
    ),
    'boundary_accuracy': Measure(
      'accuracy near boundaries',
      'percent',
      1,
      'of pixels within 3 of another class',
    ),
    'interior_accuracy': Measure(
      'accuracy away from them', 'percent', 1, 'of the other pixels'
    ),
    # Of translation.
    'bleu': Measure(
      'BLEU',
      'number',
      1,
      'by sacreBLEU, lower case, intl; 4 beams, α = 0.6, temperature 1',
    ),
    'length_ratio': Measure(
      'length ratio', 'number', 0, 'words for one of the references'
    ),
    'valid': Measure(
      'valid translations',
      'percent',
      1,
      'those of the beam search that the grammar allows',
    ),
    'kl_to_truth': Measure(
      'KL to the truth',
      'number',
      -1,
      'from the true distribution of next tokens to the model’s, in nats',
    ),
    'true_calibration': Measure(
      'calibration against the truth',
      'percent',
      -1,
      'mean distance of the confidence from the probability that the top token '
      'is right',
    ),
  }
)
