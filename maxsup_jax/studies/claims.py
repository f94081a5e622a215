"""What the papers say about objectives, as data that a study can test."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maxsup_jax import errors
from maxsup_jax.studies.measures import MEASURES

ZHOU = 'Zhou et al., NeurIPS 2025'
XIA = 'Xia et al., ICLR 2025'
GUO = 'Guo et al., TMLR 2025'
MULLER = 'Müller et al., NeurIPS 2019'
OURS = 'no paper'


@dataclasses.dataclass(frozen=True)
class Claim:
  """One sentence that a study can contradict.

  Attributes:
    name: a short name of its own.
    source: the paper; `OURS` for a question that no paper answers and for what
      follows from theory.
    place: where in the paper; for others, why the claim is here.
    sentence: what it says, in our words.
    measure: a key of `measures.MEASURES`.
    variant: the variant that the sentence is about.
    baseline: the one that it is compared with.
    sign: '+' if the measure of the variant is larger, '-' if it is smaller, '='
      if both are equal up to `margin`, '?' where nothing is expected.
    margin: of '=', in the unit of the measure.
    interpolated: only counts seeds at which both variants classify every
      training example correctly.
  """

  name: str
  source: str
  place: str
  sentence: str
  measure: str
  variant: str
  baseline: str
  sign: str
  margin: float = 0.0
  interpolated: bool = False

  def __post_init__(self) -> None:
    errors.one_of(f'claim {self.name}: measure', self.measure, MEASURES)
    errors.one_of(f'claim {self.name}: sign', self.sign, ('+', '-', '=', '?'))
    errors.number(f'claim {self.name}: margin', self.margin, low=0)
    if (self.sign == '=') != (self.margin > 0):
      raise errors.UsageError(
        f'claim {self.name}: margin is {self.margin}; expected above 0 with '
        "sign '=', and 0 with any other"
      )

  def among(self, suffix: str, about: str) -> 'Claim':
    """The same claim about variants whose names end with a suffix.

    Args:
      suffix: of the variants' names and of the claim's.
      about: what these variants have in common, for the sentence.
    """
    return dataclasses.replace(
      self,
      name=self.name + suffix,
      variant=self.variant + suffix,
      baseline=self.baseline + suffix,
      sentence=f'{self.sentence} ({about})',
    )


def _claim(name: str, source: str, place: str, sentence: str, *rest: Any):
  return Claim(name, source, place, sentence, *rest)


def _questions(*rows: tuple[str, str, str, str, str]) -> Iterator[Claim]:
  """Claims that expect nothing, of several pairs of variants each."""
  for name, sentence, measure, pairs, place in rows:
    for variant, baseline in (pair.split('-') for pair in pairs.split()):
      yield _claim(
        f'{name}-{variant}-{baseline}',
        OURS,
        place,
        sentence,
        *(measure, variant, baseline, '?'),
      )


# In the order of the papers; variants are named after `configs.common`.
PAPERS: tuple[Claim, ...] = (
  _claim(
    'accuracy-ls',
    ZHOU,
    'Tables 4 and 5',
    'Label smoothing is more accurate than cross-entropy',
    *('accuracy', 'ls', 'ce', '+'),
  ),
  _claim(
    'accuracy-maxsup',
    ZHOU,
    'Tables 4 and 5',
    'MaxSup is more accurate than label smoothing',
    *('accuracy', 'maxsup', 'ls', '+'),
  ),
  _claim(
    'accuracy-penalty',
    ZHOU,
    'Table 4',
    'MaxSup is more accurate than the logit penalty',
    *('accuracy', 'maxsup', 'logit_penalty', '+'),
  ),
  _claim(
    'within-ls',
    ZHOU,
    'Table 2, after Kornblith et al. (2021)',
    'Label smoothing leaves less variation within the classes of the training '
    'features than cross-entropy',
    *('within', 'ls', 'ce', '-'),
  ),
  _claim(
    'within-maxsup',
    ZHOU,
    'Table 2',
    'MaxSup keeps more of that variation than label smoothing',
    *('within', 'maxsup', 'ls', '+'),
  ),
  _claim(
    'r2-ls',
    ZHOU,
    'Table 2',
    'Label smoothing separates the classes of the training features better '
    'than cross-entropy: R² is higher',
    *('r_squared', 'ls', 'ce', '+'),
  ),
  _claim(
    'r2-maxsup',
    ZHOU,
    'Table 2',
    'MaxSup separates the classes better than label smoothing: R² is higher',
    *('r_squared', 'maxsup', 'ls', '+'),
  ),
  _claim(
    'transfer-ls',
    ZHOU,
    'Tables 3 and 12, after Kornblith et al. (2021)',
    'Features of label smoothing transfer worse to another dataset than those '
    'of cross-entropy',
    *('transfer', 'ls', 'ce', '-'),
  ),
  _claim(
    'transfer-maxsup',
    ZHOU,
    'Tables 3 and 12',
    'Features of MaxSup transfer better than those of label smoothing',
    *('transfer', 'maxsup', 'ls', '+'),
  ),
  _claim(
    'top-logit-maxsup',
    ZHOU,
    'Section 3 and Figure 5',
    'MaxSup holds the top logit closer to the mean than cross-entropy does',
    *('top_logit', 'maxsup', 'ce', '-'),
  ),
  _claim(
    'aurc-ls',
    XIA,
    'Section 3',
    'Label smoothing degrades selective classification: its AURC is higher '
    'than that of cross-entropy',
    *('aurc', 'ls', 'ce', '+'),
  ),
  _claim(
    'naurc-ls',
    XIA,
    'Section 3, by a measure that takes the accuracy out',
    'Label smoothing ranks its errors worse than cross-entropy, whatever the '
    'accuracy',
    *('naurc', 'ls', 'ce', '+'),
  ),
  _claim(
    'pnorm-ls',
    XIA,
    'Section 5',
    'Logit normalization gains more for label smoothing than for cross-entropy',
    *('pnorm_gain', 'ls', 'ce', '+'),
  ),
  _claim(
    'gap-ls',
    XIA,
    'Section 4',
    'Under label smoothing the top logit of correct predictions lies lower, '
    'against that of wrong ones of equal confidence, than under cross-entropy',
    *('top_logit_gap', 'ls', 'ce', '-'),
  ),
  _claim(
    'suppression-ls',
    OURS,
    'an identity (Xia et al., Section 4): a check of the machinery',
    'Label smoothing presses on the top logit of correct predictions more than '
    'on that of wrong ones; MaxSup presses on both alike',
    *('suppression_gap', 'ls', 'maxsup', '+'),
  ),
  _claim(
    'nc1-speed',
    GUO,
    'abstract, first claim',
    'NC1 falls faster under label smoothing than under cross-entropy',
    *('nc1_path', 'ls', 'ce', '-'),
  ),
  _claim(
    'nc1-ls',
    GUO,
    'abstract, first claim',
    'NC1 ends lower under label smoothing',
    *('nc1', 'ls', 'ce', '-'),
  ),
  _claim(
    'nc2-ls',
    GUO,
    'abstract, first claim',
    'NC2 ends lower under label smoothing',
    *('nc2', 'ls', 'ce', '-'),
  ),
  _claim(
    'norms-ls',
    GUO,
    'abstract, third claim',
    'The norms of features are smaller under label smoothing',
    *('h_norm', 'ls', 'ce', '-'),
  ),
  _claim(
    'ece-ls',
    MULLER,
    'Table 3; Guo et al. (2025), third claim',
    'Label smoothing is better calibrated than cross-entropy',
    *('ece', 'ls', 'ce', '-'),
  ),
  _claim(
    'temperature-ls',
    MULLER,
    'Section 3',
    'Label smoothing needs a lower temperature than cross-entropy',
    *('log_temperature', 'ls', 'ce', '-'),
  ),
  _claim(
    'clusters-ls',
    MULLER,
    'Section 2, Figure 1',
    'Label smoothing draws the training examples of a class into tighter '
    'clusters than cross-entropy',
    *('cluster_spread', 'ls', 'ce', '-'),
  ),
  _claim(
    'information-ls',
    MULLER,
    'Section 4, Figure 6',
    'Logits of label smoothing tell less about the training example than '
    'those of cross-entropy',
    *('information', 'ls', 'ce', '-'),
  ),
  _claim(
    'distillation-ls',
    MULLER,
    'Section 4, Figure 5',
    'A student of a teacher with label smoothing is less accurate than one of '
    'a teacher with cross-entropy',
    *('accuracy', 'student_of_ls', 'student_of_ce', '-'),
  ),
  _claim(
    'distillation-baseline',
    MULLER,
    'Section 4, Figure 5',
    'A student of a teacher with label smoothing is no more accurate than one '
    'that was trained with label smoothing itself',
    *('accuracy', 'student_of_ls', 'student_ls', '-'),
  ),
  _claim(
    'equal-when-interpolated',
    OURS,
    'follows from the gradients: a check of the machinery',
    'Where all training examples are classified correctly, MaxSup and label '
    'smoothing give the same accuracy, to a point',
    *('accuracy', 'maxsup', 'ls', '=', 0.01, True),
  ),
  _claim(
    'nc3-ls',
    OURS,
    'open question; Guo et al. draw NC3, and claim NC1 and NC2',
    'Does NC3 end lower under label smoothing?',
    *('nc3', 'ls', 'ce', '?'),
  ),
  _claim(
    'near-zero-maxsup',
    OURS,
    'open question; the published code of MaxSup measures it',
    'Are as many logits of MaxSup close to 0 as of cross-entropy?',
    *('near_zero', 'maxsup', 'ce', '?'),
  ),
  _claim(
    'corruption-maxsup',
    OURS,
    'open question; Zhou et al. found no better error on CIFAR-10-C',
    'Does MaxSup err on corrupted images as cross-entropy does?',
    *('corrupted_error', 'maxsup', 'ce', '?'),
  ),
  _claim(
    'aurc-maxsup',
    OURS,
    'open question',
    'Is the AURC of MaxSup that of cross-entropy?',
    *('aurc', 'maxsup', 'ce', '?'),
  ),
  _claim(
    'aurc-maxsup-ls',
    OURS,
    'open question',
    'Does MaxSup keep what label smoothing loses in selective classification?',
    *('aurc', 'maxsup', 'ls', '?'),
  ),
  _claim(
    'gap-maxsup',
    OURS,
    'open question',
    'Does MaxSup press on correct and wrong predictions alike in effect, too?',
    *('top_logit_gap', 'maxsup', 'ls', '?'),
  ),
  _claim(
    'ece-maxsup',
    OURS,
    'open question',
    'Is MaxSup calibrated as label smoothing is?',
    *('ece', 'maxsup', 'ls', '?'),
  ),
  _claim(
    'distillation-maxsup',
    OURS,
    'open question',
    'Do teachers with MaxSup distil as those with label smoothing do?',
    *('accuracy', 'student_of_maxsup', 'student_of_ls', '?'),
  ),
  _claim(
    'information-maxsup',
    OURS,
    'open question',
    'Do the logits of MaxSup keep more about the training example than those '
    'of label smoothing?',
    *('information', 'maxsup', 'ls', '?'),
  ),
)

# Of translation, from English to German in the paper.
TRANSLATION: tuple[Claim, ...] = (
  _claim(
    'bleu-ls',
    MULLER,
    'Figure 4; Table 1, after Vaswani et al. (2017)',
    'Label smoothing has a higher BLEU than cross-entropy',
    *('bleu', 'ls', 'ce', '+'),
  ),
  _claim(
    'nll-ls',
    MULLER,
    'Section 3 and Figure 4; Table 1, after Vaswani et al. (2017)',
    'Label smoothing has a higher NLL of next tokens than cross-entropy',
    *('nll', 'ls', 'ce', '+'),
  ),
  _claim(
    'nll-scaled-ls',
    MULLER,
    'Section 3 and Figure 4: at every temperature',
    'Label smoothing has a higher NLL than cross-entropy with each at its best '
    'temperature, too',
    *('nll_scaled', 'ls', 'ce', '+'),
  ),
  _claim(
    'ece-ls',
    MULLER,
    'Table 3, last row',
    'Next tokens of label smoothing are better calibrated than those of '
    'cross-entropy',
    *('ece', 'ls', 'ce', '-'),
  ),
  _claim(
    'temperature-ls',
    MULLER,
    'Table 3, last row',
    'Label smoothing needs a lower temperature than cross-entropy',
    *('log_temperature', 'ls', 'ce', '-'),
  ),
  *_questions(
    (
      'accuracy',
      'Which loss gets more next tokens right?',
      'accuracy',
      'ls-ce maxsup-ls',
      'open question',
    ),
    (
      'bleu',
      'Which loss has the higher BLEU?',
      'bleu',
      'maxsup-ls maxsup-ce logit_penalty-ce',
      'open question: nobody has published MaxSup on text',
    ),
    (
      'nll-scaled',
      'Which loss has the lower NLL, each at its best temperature?',
      'nll_scaled',
      'maxsup-ls maxsup-ce',
      'open question',
    ),
    (
      'ece',
      'Which loss is better calibrated, as trained?',
      'ece',
      'maxsup-ls logit_penalty-ce',
      'open question',
    ),
    (
      'temperature',
      'Does MaxSup, which presses on wrong tokens too, need another '
      'temperature than label smoothing?',
      'log_temperature',
      'maxsup-ls',
      'open question',
    ),
    (
      'naurc',
      'Which loss ranks its wrong tokens better, whatever the accuracy?',
      'naurc',
      'ls-ce maxsup-ls',
      'open question; Xia et al. (2025), Section 3, of images',
    ),
    (
      'kl',
      'Which loss is nearer to the true distributions, as trained?',
      'kl_to_truth',
      'ls-ce maxsup-ls',
      'open question: no corpus knows them',
    ),
    (
      'truth',
      'Which loss is better calibrated against the truth?',
      'true_calibration',
      'ls-ce maxsup-ls',
      'open question: no corpus knows it',
    ),
    (
      'valid',
      'Which loss has more valid translations?',
      'valid',
      'ls-ce maxsup-ls',
      'open question: a corpus knows one translation, not all',
    ),
  ),
)

# Those of images that pixels can test as well.
_OF_PIXELS = (
  *('aurc-ls', 'naurc-ls', 'pnorm-ls', 'gap-ls', 'suppression-ls'),
  *('ece-ls', 'temperature-ls', 'aurc-maxsup', 'aurc-maxsup-ls'),
  *('gap-maxsup', 'ece-maxsup'),
)
# Of segmentation; Xia et al. have Cityscapes, too.
SEGMENTATION: tuple[Claim, ...] = (
  *(c for c in PAPERS if c.name in _OF_PIXELS),
  *_questions(
    (
      'miou',
      'Which loss has the higher mIoU?',
      'miou',
      'ls-ce maxsup-ls maxsup-ce',
      'open question; Zhou et al. (2025), Table 9, have it of pre-training',
    ),
    (
      'boundary',
      'Which loss gets more pixels near boundaries right?',
      'boundary_accuracy',
      'ls-ce maxsup-ls',
      'open question: there LS and MaxSup differ most',
    ),
    (
      'interior',
      'Which loss gets more of the other pixels right?',
      'interior_accuracy',
      'ls-ce maxsup-ls',
      'open question',
    ),
    (
      'nll-scaled',
      'Which loss has the lower NLL, each at its best temperature?',
      'nll_scaled',
      'ls-ce maxsup-ls',
      'open question',
    ),
  ),
)


def among(
  variants: Mapping[str, Any],
  suffix: str = '',
  about: str = '',
  claims: Sequence[Claim] = PAPERS,
) -> tuple[Claim, ...]:
  """The claims whose two variants are in a study.

  Args:
    variants: of the study, by name.
    suffix: of the variants that are compared, such as '_noise'.
    about: what they have in common, if there is a suffix.
    claims: `PAPERS`, which are about images, `TRANSLATION` or
      `SEGMENTATION`.
  """
  named = [c.among(suffix, about) if suffix else c for c in claims]
  return tuple(
    c for c in named if c.variant in variants and c.baseline in variants
  )
