"""Keeps docs/evidence.md: `python -m tests.evidence WORKDIR...` of studies.

Copies each study.json and forest plot into docs/evidence/, and writes the
tables of the page anew from all records that are there.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from maxsup_jax.reports import study as page
from maxsup_jax.studies.claims import OURS

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / 'docs' / 'evidence.md'
RECORDS = ROOT / 'docs' / 'evidence'
_TABLE = re.compile(r'(<!-- study: (\w+) -->\n).*?(<!-- end -->)', re.S)


def records() -> dict:
  return {p.stem: json.loads(p.read_text()) for p in RECORDS.glob('*.json')}


def renewed(text: str) -> str:
  """The page with the tables that the records give."""
  known = records()

  def table(match: re.Match) -> str:
    record = known[match[2]]
    lines = [
      page.headline(record),
      '',
      *(f'> {note}\n' for note in page.notes(record)),
      *page.markdown(record),
    ]
    return match[1] + '\n'.join(lines) + '\n' + match[3]

  return _TABLE.sub(table, text)


def summary() -> list[str]:
  """A line for each study: how many claims of papers came out how."""
  lines = []
  for name, record in sorted(records().items()):
    of = [c['verdict'] for c in record['claims'] if c['source'] != OURS]
    counts = {v: of.count(v) for v in dict.fromkeys(of)}
    text = ', '.join(f'{n} {v}' for v, n in counts.items())
    lines.append(f'{name}: {text}')
  return lines


def main(workdirs: list[str]) -> None:
  RECORDS.mkdir(exist_ok=True)
  for workdir in map(Path, workdirs):
    name = json.loads((workdir / 'study.json').read_text())['name']
    shutil.copy(workdir / 'study.json', RECORDS / f'{name}.json')
    shutil.copy(workdir / 'figures/forest.png', RECORDS / f'{name}-forest.png')
  EVIDENCE.write_text(renewed(EVIDENCE.read_text()))
  print('\n'.join(summary()))


if __name__ == '__main__':
  main(sys.argv[1:])
