"""Keeps docs/evidence.md: `python -m tests.evidence WORKDIR...` of studies.

Copies each study.json and forest plot into docs/evidence/, and writes the
tables of the page, and the summary in README.md, anew from all records.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from maxsup_jax.reports import study as page
from maxsup_jax.studies import verdicts
from maxsup_jax.studies.claims import OURS

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / 'docs' / 'evidence.md'
README = ROOT / 'README.md'
RECORDS = ROOT / 'docs' / 'evidence'
_SUMMARY = re.compile(r'(<!-- evidence -->\n).*?(<!-- end evidence -->)', re.S)
# A second word leaves only the claims about variants that end with it.
_TABLE = re.compile(r'(<!-- study: (\w+) ?(\w*) -->\n).*?(<!-- end -->)', re.S)


def records() -> dict:
  return {p.stem: json.loads(p.read_text()) for p in RECORDS.glob('*.json')}


def renewed(text: str) -> str:
  """The page with the tables that the records give."""
  known = records()

  def table(match: re.Match) -> str:
    record = known[match[2]]
    shown = [c for c in record['claims'] if c['variant'].endswith(match[3])]
    lines = [
      page.headline(record),
      '',
      *(f'> {note}\n' for note in page.notes(record)),
      *page.markdown({**record, 'claims': shown}),
    ]
    return match[1] + '\n'.join(lines) + '\n' + match[4]

  return _TABLE.sub(table, text)


def summarized(text: str) -> str:
  """README.md with the names of the claims of each study, by verdict."""
  lines = [
    '| study | hold | reversed | not resolved |',
    '|---|---|---|---|',
  ]
  for _, record in sorted(records().items()):
    cells = []
    for verdict in (
      verdicts.HOLDS,
      verdicts.REVERSED,
      verdicts.UNRESOLVED,
    ):
      names = [
        c['name']
        for c in record['claims']
        if c['source'] != OURS and c['verdict'] == verdict
      ]
      shown = len(names) if verdict == verdicts.UNRESOLVED else ', '.join(names)
      cells.append(str(shown) or '–')
    title = f'{record["title"]}, {len(record["seeds"])} seeds'
    lines.append(f'| {title} | ' + ' | '.join(cells) + ' |')
  return _SUMMARY.sub(lambda m: m[1] + '\n'.join(lines) + '\n' + m[2], text)


def main(workdirs: list[str]) -> None:
  RECORDS.mkdir(exist_ok=True)
  for workdir in map(Path, workdirs):
    name = json.loads((workdir / 'study.json').read_text())['name']
    shutil.copy(workdir / 'study.json', RECORDS / f'{name}.json')
    shutil.copy(workdir / 'figures/forest.png', RECORDS / f'{name}-forest.png')
  EVIDENCE.write_text(renewed(EVIDENCE.read_text()))
  README.write_text(summarized(README.read_text()))


if __name__ == '__main__':
  main(sys.argv[1:])
