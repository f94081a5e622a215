import collections
import math
import random

import numpy as np
import pytest

from maxsup_jax.data import phrases
from maxsup_jax.errors import UsageError


@pytest.fixture(scope='module')
def drawn():
  rng = random.Random(0)
  return [phrases.draw_phrase(rng) for _ in range(20_000)]


def test_words_come_from_the_grammar(drawn):
  known = set(phrases.vocabulary())
  assert len(known) == 559
  rng = random.Random(1)
  used = set()
  for phrase in drawn:
    for text in (phrase.english, phrase.draw(rng)):
      used |= set(phrases.TOKEN.findall(text))
  # All that is drawn is known, and nearly all that is known is drawn.
  assert used <= known
  assert len(used) > 0.97 * len(known)


def test_the_english_text_decides_the_wordings(drawn):
  of_english = {}
  for phrase in drawn[:3000]:
    wordings = phrase.wordings()
    assert sum(wordings.values()) == pytest.approx(1)
    assert of_english.setdefault(phrase.english, wordings) == wordings
  assert len(of_english) > 2000
  # Of what is not always the same, the likeliest wording is not much more.
  best = [max(w.values()) for w in of_english.values() if len(w) > 1]
  assert max(best) < 0.8
  assert len(best) > 0.8 * len(of_english)


def test_draws_have_the_stated_probabilities():
  rng = random.Random(0)
  phrase = next(
    p
    for p in iter(lambda: phrases.draw_phrase(rng), None)
    if p.kind == 'time' and len(p.wordings()) >= 6
  )
  wordings, n = phrase.wordings(), 20_000
  counts = collections.Counter(phrase.draw(rng) for _ in range(n))
  assert counts.keys() == wordings.keys()
  # Chi-squared; its mean is the number of wordings less one.
  deviation = sum(
    (counts[t] - n * p) ** 2 / (n * p) for t, p in wordings.items()
  )
  assert deviation < 4 * len(wordings)


def test_next_tokens_multiply_to_the_wording():
  for phrase, german in phrases.generate('test', 40):
    wordings = phrase.wordings()
    tokens = phrases.TOKEN.findall(german)
    shares = phrases.next_tokens(wordings, tokens, 'END')
    assert len(shares) == len(tokens) + 1
    assert all(sum(s.values()) == pytest.approx(1) for s in shares)
    product = math.prod(s[t] for s, t in zip(shares, [*tokens, 'END']))
    assert product == pytest.approx(wordings[german])


def test_splits_are_apart_and_always_the_same():
  train = [p.english for p, _ in phrases.generate('train', 2000)]
  test = [p.english for p, _ in phrases.generate('test', 300)]
  assert not set(train) & set(test)
  again = [(p.english, g) for p, g in phrases.generate('test', 100)]
  assert [e for e, _ in again] == test[:100]
  # The draws themselves: a change of the grammar is another data set.
  assert again[0] == (
    'my brother sold several lamps at the market this morning .',
    'mein Bruder hat heute früh einige Lampen auf dem Markt verkauft .',
  )
  kinds = collections.Counter(
    p.kind for p, _ in phrases.generate('train', 2000)
  )
  np.testing.assert_allclose(
    [kinds[k] / 2000 for k in phrases._KINDS],
    [0.15, 0.15, 0.1, 0.15, 0.45],
    atol=0.03,
  )


@pytest.mark.parametrize(
  ('english', 'german'),
  [
    ('half past four', 'halb fünf'),
    ('twenty to one', 'zehn nach halb eins'),
    ('a quarter to eight in the evening', 'neunzehn Uhr fünfundvierzig'),
    ('on sunday , the third of march', 'am Sonntag , dem 3. März'),
    ('a big sofa', 'eine große Couch'),
    ('the old car', 'der alte Wagen'),
  ],
)
def test_german_is_german(drawn, english, german):
  """Checked by hand: arithmetic of the clock, gender, case and endings."""
  wordings = next(p.wordings() for p in drawn if p.english == english)
  assert german in wordings


def test_amounts():
  picks = iter([72, 60, True])
  phrase = phrases.Phrase('amount', *phrases._amount(lambda _: next(picks)))
  assert phrase.english == '72 . 60 euros'
  assert phrase.wordings() == pytest.approx(
    {
      'zweiundsiebzig Euro sechzig': 0.55 * 0.5,
      'zweiundsiebzig Euro und sechzig Cent': 0.55 * 0.3,
      'zweiundsiebzig Euro sechzig Cent': 0.55 * 0.2,
      '72 , 60 Euro': 0.45,
    }
  )


def test_accusatives_and_verbs_agree(drawn):
  objects = {'the old car': 'den alten Wagen', 'a big sofa': 'eine große Couch'}
  found = 0
  for phrase in drawn:
    if phrase.kind != 'sentence':
      continue
    for english, german in objects.items():
      if f' {english} ' in phrase.english:
        found += 1
        assert any(german in text for text in phrase.wordings())
    plural = phrase.english.startswith(('we ', 'the neighbours', 'the child'))
    words = set(next(iter(phrase.wordings())).split())
    assert ('haben' in words) == plural
  assert found > 20


@pytest.mark.parametrize('name', ['phrases/12', 'phrases/0x5', 'phrases/'])
def test_wrong_sizes(name):
  with pytest.raises(UsageError, match='phrases'):
    phrases.parse_name(name)
