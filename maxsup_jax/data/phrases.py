"""`phrases`: English and German from a grammar that knows every valid wording.

Times, dates, amounts, counted things and sentences. The German side has several
wordings with known probabilities, which depend on the English text alone, so
that the next token is truly uncertain and its distribution is exact: no corpus
has that. Uncertain are word order, tense, the form of numbers and dates, and
synonyms, also of another gender, which decide all the endings that follow.

All is lower case but German nouns, and spaces stand between words.
"""

import dataclasses
import functools
import itertools
import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from maxsup_jax.errors import UsageError, integer

# A word or a mark; what the vocabulary of this data set consists of.
TOKEN = re.compile(r'\w+|[^\w\s]')
# One phrase in so many is for tests, by what its English text is: no phrase of
# one split is in the other.
_HELD_OUT = 10
_MOST = 10**7


class Choice(tuple):
  """Nodes with probabilities: a tuple of pairs."""


class Several(tuple):
  """Nodes that follow each other."""


# What becomes German text: words, a `Choice` or `Several`.
Node = str | Choice | Several
# Picks one of several things; the only source of randomness.
Pick = Callable[[Sequence[Any]], Any]


@dataclasses.dataclass(frozen=True)
class Phrase:
  """An English text and the German ones that it stands for.

  Attributes:
    kind: 'time', 'date', 'amount', 'things' or 'sentence'.
    english: words and marks, spaces between them.
    german: what `wordings` lists.
  """

  kind: str
  english: str
  german: Node

  def wordings(self) -> dict[str, float]:
    """Every valid German text and its probability, in the grammar's order."""
    found: dict[str, float] = {}
    for probability, text in _expand(self.german):
      found[text] = found.get(text, 0.0) + probability
    return found

  def draw(self, rng: random.Random) -> str:
    """One of the wordings, with its probability."""
    return ' '.join(_draw(self.german, rng))


def next_tokens(
  wordings: dict[str, float], tokens: Sequence[str], end: str
) -> list[dict[str, float]]:
  """The distribution of each token given the true ones before it.

  Args:
    wordings: texts and their probabilities.
    tokens: one of the texts, split by `TOKEN`.
    end: what follows the last token.

  Returns:
    For each of `tokens` and for `end`: the tokens that may stand there.

  Examples:
    >>> next_tokens({'halb vier': 0.75, 'halb': 0.25}, ['halb'], '.')
    [{'halb': 1.0}, {'vier': 0.75, '.': 0.25}]
  """
  left = [([*TOKEN.findall(text), end], p) for text, p in wordings.items()]
  found = []
  for t, token in enumerate([*tokens, end]):
    shares: dict[str, float] = {}
    for words, p in left:
      shares[words[t]] = shares.get(words[t], 0.0) + p
    total = sum(shares.values())
    found.append({word: p / total for word, p in shares.items()})
    left = [(words, p) for words, p in left if words[t] == token]
  return found


def parse_name(name: str) -> tuple[int, int]:
  """The numbers of training and test phrases that a name stands for.

  Examples:
    >>> parse_name('phrases'), parse_name('phrases/2000x200')
    ((12000, 1000), (2000, 200))
  """
  base, _, sizes = name.partition('/')
  if name == base:
    return 12_000, 1_000
  if not (numbers := re.fullmatch(r'(\d{1,9})x(\d{1,9})', sizes)):
    raise UsageError(
      f'dataset is {name!r}; expected phrases, or phrases/TRAINxTEST such as '
      'phrases/12000x1000'
    )
  train, test = (
    integer(f'{what} phrases', int(number), 1, _MOST)
    for what, number in zip(('training', 'test'), numbers.groups())
  )
  return train, test


def generate(split: str, count: int) -> Iterator[tuple[Phrase, str]]:
  """Phrases of a split with one German wording each, always the same ones.

  Args:
    split: 'train' or 'test'.
    count: how many; fewer are the beginning of more.
  """
  # Python promises the numbers of `random()` for a seed that is an integer.
  rng = random.Random(zlib.crc32(f'phrases {split}'.encode()))
  found = 0
  while found < count:
    phrase = draw_phrase(rng)
    if is_held_out(phrase.english) == (split == 'test'):
      yield phrase, phrase.draw(rng)
      found += 1


def swapped(split: str, count: int) -> Iterator[tuple[str, int]]:
  """German phrases, of which about half have two neighbouring words swapped.

  Args:
    split: see `generate`.
    count: likewise.

  Yields:
    Words and marks with spaces between them, and 1 where two are swapped.

  Examples:
    >>> list(swapped('test', 3))
    [...]
  """
  rng = random.Random(zlib.crc32(f'swapped phrases {split}'.encode()))
  for _, german in generate(split, count):
    words = TOKEN.findall(german)
    places = [i for i in range(len(words) - 1) if words[i] != words[i + 1]]
    swaps = rng.random() < 0.5 and bool(places)
    if swaps:
      i = places[int(rng.random() * len(places))]
      words[i : i + 2] = words[i + 1], words[i]
    yield ' '.join(words), int(swaps)


def is_held_out(english: str) -> bool:
  """Whether a phrase is one of the test split."""
  return zlib.crc32(english.encode()) % _HELD_OUT == 0


def draw_phrase(rng: random.Random) -> Phrase:
  """A phrase of a random kind."""

  def pick(options):
    return options[int(rng.random() * len(options))]

  kind = pick(_SHARES)
  return Phrase(kind, *_KINDS[kind](pick))


@functools.cache
def vocabulary() -> tuple[str, ...]:
  """Every word and mark of the grammar, both languages, sorted."""
  found: set[str] = set()
  for kind in _KINDS.values():
    # Step by step through all lists at once, each ahead of the one before by a
    # shift, twice round the longest, so that entries of any two lists meet.
    for shift, step in itertools.product(range(8), range(200)):
      english, german = kind(_Walk(shift, step))
      found.update(TOKEN.findall(f'{english} {" ".join(_words(german))}'))
  return tuple(sorted(found))


class _Walk:
  """Picks by turns where `draw_phrase` picks at random."""

  def __init__(self, shift: int, at: int):
    self.shift, self.at = shift, at

  def __call__(self, options: Sequence[Any]) -> Any:
    self.at += self.shift
    return options[self.at % len(options)]


def _expand(node: Node) -> list[tuple[float, str]]:
  if isinstance(node, Choice):
    return [(p * q, t) for p, inner in node for q, t in _expand(inner)]
  if isinstance(node, Several):
    texts = [(1.0, '')]
    for part in node:
      inner = _expand(part)
      texts = [(p * q, f'{a} {b}'.strip()) for p, a in texts for q, b in inner]
    return texts
  return [(1.0, node)]


def _draw(node: Node, rng: random.Random) -> Iterator[str]:
  if isinstance(node, Choice):
    at = rng.random()
    chosen: Node = ''
    for probability, option in node:
      chosen, at = option, at - probability
      if at < 0:
        break
    yield from _draw(chosen, rng)
  elif isinstance(node, Several):
    for part in node:
      yield from _draw(part, rng)
  elif node:
    yield node


def _words(node: Node) -> Iterator[str]:
  if isinstance(node, Choice):
    for _, inner in node:
      yield from _words(inner)
  elif isinstance(node, Several):
    for part in node:
      yield from _words(part)
  else:
    yield node


def _either(*options: Any) -> Choice:
  """Nodes and probabilities by turns: `_either(0.7, a, 0.3, b)`."""
  return Choice(zip(options[::2], options[1::2]))


def _all(*nodes: Node) -> Several:
  return Several(nodes)


def _list(text: str) -> tuple[str, ...]:
  return tuple(text.split())


_SMALL = _list(
  'zero one two three four five six seven eight nine ten eleven twelve '
  'thirteen fourteen fifteen sixteen seventeen eighteen nineteen'
)
_TENS = _list('twenty thirty forty fifty sixty seventy eighty ninety')
_KLEIN = _list(
  'null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf '
  'dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn'
)
_ZEHNER = _list(
  'zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig'
)


def _english(n: int) -> str:
  """A number below 100: 'seventy - two'."""
  if n < 20:
    return _SMALL[n]
  tens, ones = _TENS[n // 10 - 2], n % 10
  return f'{tens} - {_SMALL[ones]}' if ones else tens


def _german(n: int) -> str:
  """A number below 100: 'zweiundsiebzig'."""
  if n < 20:
    return _KLEIN[n]
  tens, ones = _ZEHNER[n // 10 - 2], n % 10
  if not ones:
    return tens
  return ('ein' if ones == 1 else _KLEIN[ones]) + 'und' + tens


def _before_noun(n: int) -> str:
  return 'ein' if n == 1 else _german(n)


# A part of the day, its first and last hour, and how German says it.
_PARTS = (
  ('', 1, 12, ''),
  ('in the morning', 5, 11, _either(0.6, 'morgens', 0.4, 'am Morgen')),
  (
    'in the afternoon',
    13,
    17,
    _either(0.6, 'nachmittags', 0.4, 'am Nachmittag'),
  ),
  ('in the evening', 18, 22, _either(0.6, 'abends', 0.4, 'am Abend')),
)
_MINUTES = range(0, 60, 5)


def _clock(hour: int, minute: int) -> tuple[str, Node]:
  """A time without the part of the day, as people say it."""
  h, following = (hour - 1) % 12 + 1, hour % 12 + 1
  now, then = _german(h), _german(following)
  if minute == 0:
    return f"{_english(h)} o ' clock", f'{_before_noun(h)} Uhr'
  if minute == 30:
    return f'half past {_english(h)}', f'halb {then}'
  if minute in (15, 45):
    text, after, rare = (
      (f'a quarter past {_english(h)}', f'nach {now}', 'viertel')
      if minute == 15
      else (
        f'a quarter to {_english(following)}',
        f'vor {then}',
        'drei viertel',
      )
    )
    return text, _either(0.75, f'Viertel {after}', 0.25, f'{rare} {then}')
  past = minute < 30
  apart = minute if past else 60 - minute
  text = f'{_english(apart)} ' + (
    f'past {_english(h)}' if past else f'to {_english(following)}'
  )
  plain = (
    f'{_german(apart)} nach {now}' if past else (f'{_german(apart)} vor {then}')
  )
  if apart <= 10:
    return text, plain
  from_half = f'{_german(30 - apart)} {"vor" if past else "nach"} halb {then}'
  if apart == 25:
    return text, from_half
  return text, _either(0.6, plain, 0.4, from_half)


def _time(pick: Pick) -> tuple[str, Node]:
  part, first, last, teil = pick(_PARTS)
  hour = pick(range(first, last + 1))
  minute = pick(_MINUTES)
  english, german = _clock(hour, minute)
  if minute:
    digits = f'{hour}:{minute:02} Uhr' if teil else f'{hour}.{minute:02} Uhr'
    official: Node = _either(
      0.6, f'{_before_noun(hour)} Uhr {_german(minute)}', 0.4, digits
    )
  elif teil:
    official = _either(0.6, f'{_before_noun(hour)} Uhr', 0.4, f'{hour} Uhr')
  else:
    # As people say it, too.
    official = f'{hour} Uhr'
  if not teil:
    return english, _either(0.7, german, 0.3, official)
  said = _either(0.7, _all(german, teil), 0.3, _all(teil, 'um', german))
  return f'{english} {part}', _either(0.65, said, 0.35, official)


_WEEKDAYS = (
  *(('monday', 'Montag'), ('tuesday', 'Dienstag'), ('wednesday', 'Mittwoch')),
  *(('thursday', 'Donnerstag'), ('friday', 'Freitag')),
  *(('saturday', _either(0.7, 'Samstag', 0.3, 'Sonnabend')),),
  *(('sunday', 'Sonntag'), ('', '')),
)
_MONTHS = (
  *(('january', 'Januar', 31), ('february', 'Februar', 28)),
  *(('march', 'März', 31), ('april', 'April', 30), ('may', 'Mai', 31)),
  *(('june', 'Juni', 30), ('july', 'Juli', 31), ('august', 'August', 31)),
  *(('september', 'September', 30), ('october', 'Oktober', 31)),
  *(('november', 'November', 30), ('december', 'Dezember', 31)),
)
_ORDINALS = {
  **{1: 'first', 2: 'second', 3: 'third', 5: 'fifth', 8: 'eighth'},
  **{9: 'ninth', 12: 'twelfth', 20: 'twentieth', 30: 'thirtieth'},
}
_ORDNUNG = {1: 'ersten', 3: 'dritten', 7: 'siebten', 8: 'achten'}


def _date(pick: Pick) -> tuple[str, Node]:
  month, monat, days = pick(_MONTHS)
  day = pick(range(1, days + 1))
  weekday, tag = pick(_WEEKDAYS)
  if day in _ORDINALS:
    ordinal = _ORDINALS[day]
  elif day < 20:
    ordinal = f'{_SMALL[day]}th'
  else:
    tens, ones = _TENS[day // 10 - 2], day % 10
    ordinal = f'{tens} - {_ORDINALS.get(ones, f"{_SMALL[ones]}th")}'
  english = pick((f'the {ordinal} of {month}', f'{month} {day}'))
  ending = 'ten' if day < 20 else 'sten'
  word = _ORDNUNG.get(day, _german(day) + ending)
  german = _either(
    0.45,
    f'{word} {monat}',
    0.45,
    f'{day}. {monat}',
    0.1,
    f'{day}. {1 + [m for m, _, _ in _MONTHS].index(month)}.',
  )
  if not weekday:
    return f'on {english}', _all('am', german)
  article = _either(0.6, 'dem', 0.4, 'den')
  return (
    f'on {weekday} , {english}',
    _all('am', tag, ',', article, german),
  )


def _amount(pick: Pick) -> tuple[str, Node]:
  euros = pick(range(1, 100))
  cents = pick((0, *range(5, 100, 5)))
  digits = pick((True, False))
  unit = 'euro' if euros == 1 else 'euros'
  german = f'{_before_noun(euros)} Euro'
  if not cents:
    english = f'{euros if digits else _english(euros)} {unit}'
    return english, _either(0.6, german, 0.4, f'{euros} Euro')
  english = (
    f'{euros} . {cents:02} euros'
    if digits
    else f'{_english(euros)} {unit} and {_english(cents)} cents'
  )
  word = _german(cents)
  spoken = _either(0.5, word, 0.3, f'und {word} Cent', 0.2, f'{word} Cent')
  return english, _either(
    0.55, _all(german, spoken), 0.45, f'{euros} , {cents:02} Euro'
  )


# Singular and plural; German nouns with probability and gender.
_NOUNS = (
  (
    ('roll', 'rolls'),
    (0.6, 'n', 'Brötchen', 'Brötchen'),
    (0.4, 'f', 'Semmel', 'Semmeln'),
  ),
  (('apple', 'apples'), (1.0, 'm', 'Apfel', 'Äpfel')),
  (('pear', 'pears'), (1.0, 'f', 'Birne', 'Birnen')),
  (('book', 'books'), (1.0, 'n', 'Buch', 'Bücher')),
  (
    ('picture', 'pictures'),
    (0.65, 'n', 'Bild', 'Bilder'),
    (0.35, 'f', 'Zeichnung', 'Zeichnungen'),
  ),
  (
    ('car', 'cars'),
    (0.7, 'n', 'Auto', 'Autos'),
    (0.3, 'm', 'Wagen', 'Wagen'),
  ),
  (('table', 'tables'), (1.0, 'm', 'Tisch', 'Tische')),
  (
    ('sofa', 'sofas'),
    (0.55, 'n', 'Sofa', 'Sofas'),
    (0.45, 'f', 'Couch', 'Couchs'),
  ),
  (('lamp', 'lamps'), (1.0, 'f', 'Lampe', 'Lampen')),
  (('letter', 'letters'), (1.0, 'm', 'Brief', 'Briefe')),
  (
    ('box', 'boxes'),
    (0.5, 'f', 'Schachtel', 'Schachteln'),
    (0.5, 'm', 'Karton', 'Kartons'),
  ),
  (('key', 'keys'), (1.0, 'm', 'Schlüssel', 'Schlüssel')),
)
# English, and German stems that endings follow.
_ADJECTIVES = (
  *(('', ''), ('', ''), ('red', 'rot'), ('small', 'klein'), ('old', 'alt')),
  *(('new', 'neu'), ('good', 'gut'), ('expensive', 'teur')),
  ('big', _either(0.7, 'groß', 0.3, 'riesig')),
  ('beautiful', _either(0.6, 'schön', 0.4, 'hübsch')),
)
# Articles and the endings of adjectives after them, by case and gender.
_ENDINGS = {
  ('a', 'nom'): {'m': ('ein', 'er'), 'f': ('eine', 'e'), 'n': ('ein', 'es')},
  ('a', 'acc'): {'m': ('einen', 'en'), 'f': ('eine', 'e'), 'n': ('ein', 'es')},
  ('the', 'nom'): {'m': ('der', 'e'), 'f': ('die', 'e'), 'n': ('das', 'e')},
  ('the', 'acc'): {'m': ('den', 'en'), 'f': ('die', 'e'), 'n': ('das', 'e')},
}


def _inflected(stem: Node, ending: str) -> Node:
  if isinstance(stem, Choice):
    return Choice((p, _inflected(inner, ending)) for p, inner in stem)
  return f'{stem}{ending}' if stem else ''


def _counted(pick: Pick, case: str) -> tuple[str, Node]:
  """One or several things, perhaps with an adjective."""
  (one, many), *nouns = pick(_NOUNS)
  adjective, stem = pick(_ADJECTIVES)
  determiner = pick(('a', 'the', 'number', 'number', 'several', 'dozen', 'all'))
  number = pick((*range(2, 13), *range(13, 100, 7)))
  digits = pick((True, False))
  plural = determiner not in ('a', 'the')
  if determiner == 'number':
    first = str(number) if digits else _english(number)
    erst: Node = _german(number)
    if number > 12:
      erst = _either(0.6, erst, 0.4, str(number))
  else:
    articles: dict[str, tuple[str, Node]] = {
      'a': ('an' if re.match('[aeiou]', adjective or one) else 'a', ''),
      'the': ('the', ''),
      'several': ('several', _either(0.6, 'mehrere', 0.4, 'einige')),
      'dozen': ('a dozen', _either(0.7, 'ein Dutzend', 0.3, 'zwölf')),
      'all': ('the', 'die'),
    }
    first, erst = articles[determiner]
  english = ' '.join(filter(None, (first, adjective, many if plural else one)))
  if plural:
    ending = 'en' if determiner == 'all' else 'e'
    noun = _all(
      _inflected(stem, ending),
      _either(*(x for p, _, _, noun in nouns for x in (p, noun))),
    )
    # Nominative and accusative are alike in the plural.
    return english, _all(erst, noun)
  options = []
  for p, gender, noun, _ in nouns:
    article, ending = _ENDINGS[determiner, case][gender]
    options += [p, _all(article, _inflected(stem, ending), noun)]
  return english, _either(*options)


def _things(pick: Pick) -> tuple[str, Node]:
  return _counted(pick, 'nom')


# English, and German: probability, nominative and dative.
_PEOPLE = (
  ('i', (1.0, 'ich', 'mir')),
  ('we', (1.0, 'wir', 'uns')),
  ('my brother', (1.0, 'mein Bruder', 'meinem Bruder')),
  ('my sister', (1.0, 'meine Schwester', 'meiner Schwester')),
  ('the old woman', (1.0, 'die alte Frau', 'der alten Frau')),
  ('the young man', (1.0, 'der junge Mann', 'dem jungen Mann')),
  (
    'the teacher',
    (0.5, 'der Lehrer', 'dem Lehrer'),
    (0.5, 'die Lehrerin', 'der Lehrerin'),
  ),
  ('the neighbours', (1.0, 'die Nachbarn', 'den Nachbarn')),
  ('the children', (1.0, 'die Kinder', 'den Kindern')),
)
_PLURAL = ('we', 'the neighbours', 'the children')
# Past tense, preterite of one and of several, participle; whether somebody
# gets the thing.
_VERBS = (
  ('bought', 'kaufte', 'kauften', 'gekauft', False),
  ('found', 'fand', 'fanden', 'gefunden', False),
  ('saw', 'sah', 'sahen', 'gesehen', False),
  ('ordered', 'bestellte', 'bestellten', 'bestellt', False),
  ('sold', 'verkaufte', 'verkauften', 'verkauft', False),
  ('lost', 'verlor', 'verloren', 'verloren', False),
  ('gave', 'gab', 'gaben', 'gegeben', True),
  ('showed', 'zeigte', 'zeigten', 'gezeigt', True),
  ('brought', 'brachte', 'brachten', 'gebracht', True),
)
_PLACES = (
  *(('', ''), ('', ''), ('at the market', 'auf dem Markt')),
  ('at the station', _either(0.75, 'am Bahnhof', 0.25, 'an dem Bahnhof')),
  ('in the city', 'in der Stadt'),
)
_WHEN = (
  *(('', ''), ('yesterday', 'gestern'), ('today', 'heute')),
  ('last week', _either(0.7, 'letzte Woche', 0.3, 'vorige Woche')),
  ('this morning', _either(0.75, 'heute Morgen', 0.25, 'heute früh')),
  *(('clock', ''), ('clock', ''), ('weekday', ''), ('weekday', '')),
)


def _sentence(pick: Pick) -> tuple[str, Node]:
  when, wann = pick(_WHEN)
  if when == 'clock':
    hour, minute = pick(range(1, 13)), pick(_MINUTES)
    when, wann = _clock(hour, minute)
    when, wann = f'at {when}', _all('um', wann)
  elif when == 'weekday':
    when, tag = pick(_WEEKDAYS[:-1])
    when, wann = f'on {when}', _all('am', tag)
  who, *wer = pick(_PEOPLE)
  did, tat, taten, getan, gives = pick(_VERBS)
  thing, was = _counted(pick, 'acc')
  whom, *wem = pick(_PEOPLE[2:])
  place, wo = pick(_PLACES)
  for_whom = gives and whom != who
  to = f'to {whom}' if for_whom else ''
  english = ' '.join(filter(None, (who, did, thing, to, place, when)))
  several = who in _PLURAL
  subject = _either(*(x for p, form, _ in wer for x in (p, form)))
  recipient: Node = ''
  if for_whom:
    recipient = _either(*(x for p, _, form in wem for x in (p, form)))
  has = 'haben' if several else 'habe' if who == 'i' else 'hat'
  middle = _either(0.65, _all(wo, was), 0.35, _all(was, wo)) if wo else was

  def clause(verb, last):
    first = _all(wann, verb, subject, recipient, middle, last)
    second = _all(subject, verb, wann, recipient, middle, last)
    return _either(0.5, first, 0.5, second) if wann else second

  return f'{english} .', _all(
    _either(
      0.6, clause(has, getan), 0.4, clause(taten if several else tat, '')
    ),
    '.',
  )


_KINDS: dict[str, Callable[[Pick], tuple[str, Node]]] = {
  'time': _time,
  'date': _date,
  'amount': _amount,
  'things': _things,
  'sentence': _sentence,
}
# Of twenty phrases.
_SHARES = (
  *('time',) * 3,
  *('date',) * 3,
  *('amount',) * 2,
  *('things',) * 3,
  *('sentence',) * 9,
)
