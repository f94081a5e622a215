"""The results that the cards quote are those of the papers.

Each is typed from its paper here, a second time: an accuracy and its spread
next to each other, without the signs between them.
"""

import collections
import re

import pytest

from tests.configs.cards import CARDS, docstring

# The rows of the tables in the docstrings, in their order.
ROWS = {
  # Tables 4 and 10.
  'imagenet_convnet': """
    ce 69.09 0.12 76.41 0.10 75.96 0.18 71.40 0.12
    ls 69.54 0.15 76.91 0.11 77.37 0.15 71.61 0.09
    zipf 69.31 0.12 76.73 0.17 76.91 0.11 71.16 0.15
    ols 69.45 0.15 77.23 0.21 77.71 0.17 71.63 0.11
    maxsup 69.96 0.13 77.69 0.07 78.18 0.12 72.08 0.17
    logit_penalty 68.48 0.10 76.73 0.10 77.20 0.15 71.13 0.10
    ce 69.11 0.12 76.44 0.10 76.00 0.18 71.42 0.12
    ls 69.38 0.19 76.65 0.11 77.01 0.15 71.40 0.09
    zipf 69.43 0.13 76.89 0.17 76.91 0.14 71.24 0.16
    ols 69.45 0.15 76.81 0.21 77.12 0.17 71.29 0.11
    maxsup 69.59 0.13 77.08 0.07 77.33 0.12 71.59 0.17
    logit_penalty 66.97 0.11 74.21 0.16 75.17 0.12 70.39 0.14
  """,
  # Table 4.
  'cifar100_maxsup': """
    ce 76.16 0.18 78.69 0.16 79.11 0.21 68.06 0.06
    ls 77.05 0.17 78.88 0.13 79.19 0.25 69.65 0.08
    zipf 76.21 0.12 78.75 0.21 79.15 0.18 69.39 0.08
    ols 77.33 0.15 78.79 0.12 79.25 0.15 68.91 0.11
    maxsup 77.82 0.15 79.15 0.13 79.41 0.19 69.88 0.07
    logit_penalty 76.41 0.15 78.90 0.16 78.89 0.21 69.46 0.08
  """,
  # Table 7.
  'cifar10_long_tailed': """
    50 "val" 77.4 76.0 89.7 81.2 81.6 77.0 82.1 82.5 78.1
    50 "test" 76.8 75.3 90.4 80.5 81.1 75.4 81.4 82.3 73.4
    100 "val" 75.1 71.8 88.3 76.6 80.6 60.7 77.1 80.1 65.1
    100 "test" 74.7 71.6 87.2 76.4 80.8 59.0 76.4 79.9 62.4
  """,
  # Table 8.
  'cifar10_corruptions': """
    ce .354 .015 1.819 .158 .260 .015
    ls .359 .064 1.476 .111 .158 .015
    maxsup .362 .055 1.770 .103 .145 .003
  """,
  # Table 6: Cars in the second row.
  'fine_grained': """
    CUB 80.88 81.96 82.33 81.40 82.53
    Cars 90.27 91.64 91.96 90.99 92.25
  """,
  # The outputs stored in the authors' code.
  'imagenet_selective': """
    ResNet-50 23.0 6.53 22.5 7.55
    ViT-S/16 25.8 7.43 24.9 7.86
  """,
  # Table 2.
  'muller': """
    cifar10, alexnet_cifar 86.8 0.2 86.7 0.3
    cifar100, resnet56_t2t 72.1 0.3 72.7 0.3
    imagenet2012, inception_v4 80.9 80.9
  """,
}

# What is quoted outside of tables.
SENTENCES = {
  'imagenet_convnet': (
    '3 min 51 s an epoch for ResNet-50 (ls 3:52)',
    "logit_penalty (2e-3 in the authors' code, and here; 6e-4 in their other",
  ),
  'cifar100_maxsup': (
    "logit_penalty (2e-3 in the authors' code, and here; 6e-4 in their other",
  ),
  # Tables 5, 11 and 1.
  'imagenet_deit': (
    'ce 74.39+-0.19, ls 76.08+-0.16, zipf 75.89+-0.26, ols 76.16+-0.18, '
    'maxsup 76.49+-0.12',
    'ce 74.21; ls 75.91 with alpha= constant, 76.16 with linear; '
    'maxsup 76.12 and 76.58',
    'regularization_only 75.98, error_amplification_only 73.63, '
    'error_amplification_max 73.69',
  ),
  'imagenet_selective': ('an AURC of 6.56 (ce, p=8) and 6.22 (ls, p=5)',),
  'cifar10_corruptions': (
    'error .3951 of both, NLL 1.8431 (maxsup) and 1.5730 (ls), '
    'ECE .1479 and .1741',
  ),
  # Table 3.
  'muller': (
    '.150 at alpha=0 (.021 with temperature 1.9), .024 at .05',
    '.071 (.022 with temperature 1.4), .035 at .1',
  ),
  'neural_collapse': (
    'test errors of .10 to .15 (CIFAR-10), .36 to .40 (CIFAR-100), '
    '.39 to .45 (STL-10) and .40 to .45 (Tiny ImageNet)',
  ),
}

# Our own results, which no paper has.
MEASURED = {'digits', 'glyphs'}


def plain(text):
  """The words and numbers, without what stands between numbers."""
  return ' '.join(re.sub(r'\+-|[(]|[)]| / ', ' ', text).split())


def rows(card):
  return [line.strip() for line in ROWS.get(card, '').strip().splitlines()]


@pytest.mark.parametrize('card', ROWS)
def test_tables_are_those_of_the_papers(card):
  lines = [plain(line) for line in docstring(card).splitlines()]
  assert [line for line in lines if line in rows(card)] == rows(card)


@pytest.mark.parametrize('card', SENTENCES)
def test_results_in_sentences_are_those_of_the_papers(card):
  text = ' '.join(docstring(card).split())
  for sentence in SENTENCES[card]:
    assert sentence in text


@pytest.mark.parametrize('card', sorted(set(CARDS) - MEASURED))
def test_no_percentage_is_quoted_that_is_not_in_a_paper(card):
  def percentages(text):
    return collections.Counter(re.findall(r'(?<![\d.])\d\d\.\d\d?(?!\d)', text))

  known = ' '.join([*rows(card), *SENTENCES.get(card, ())])
  assert percentages(docstring(card)) == percentages(known)
