"""Two skills and their composition: is the order found, and is it worth anything?

  python -m experiments.compositions --config compositions:cpu --workdir runs/compositions

The pool is made here: documents of `first` tell a table f of symbols, those of `second`
a table g, and the rarer ones of `composed` name x, f(x) and g(f(x)) in one line. The
exam is more of these. `ordered` in the training that counts stands beside natural, which
is the same data mixed all the time, and beside itself with all arrows turned.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.jobs import plan as plans
from cmtree_jax.jobs.command import command
from cmtree_jax.recipe import schedule as schedules
from experiments import claims
from experiments.claims import Results

COMPOSED = "composed"
_MOMENTS = 6  # of a run, at which the share of the composition is told
_EXAM = 20  # documents of each split


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.compositions",
    "Two skills and their composition, in order and mixed.",
    run,
    arguments,
  )


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Makes the corpus, compares, and writes the table."""
  from cmtree_jax.report import tables
  from cmtree_jax.types import UserError

  if "compositions" not in config:
    raise UserError(
      "The config has no block `compositions`; take --config compositions:toy or "
      "compositions:cpu."
    )
  own = claims.plain(config)
  pool, exam = write_corpus(workdir / "corpus", **config.compositions)
  own.data.source = (f"jsonl:{pool}",)
  own.data.target_files = (str(exam),)
  status, found = claims.compared(
    own.lock(), workdir, "compositions", (), overwrite=overwrite
  )
  if not status:
    tables.show_files(list(show(found)))
  return status


def write_corpus(
  folder: Path, *, symbols: int, documents: int, composed: int, lines: int
) -> tuple[Path, Path]:
  """Writes pool and exam; equal arguments give equal bytes: (pool, exam).

  Args:
    folder: for both.
    symbols: in the tables.
    documents: of each skill.
    composed: documents of the composition in the pool.
    lines: of a document.
  """
  from cmtree_jax.data import store

  rng = np.random.default_rng(0)
  letters = "bcdfghklmnprstvz"
  names = [a + e + b for a in letters for e in "aeiou" for b in letters]
  name_S = np.array(rng.choice(names, symbols, replace=False))
  f_S, g_S = rng.permutation(symbols), rng.permutation(symbols)

  def text(kind: str) -> str:
    """Lines about symbols by chance."""
    x_L = rng.integers(symbols, size=lines)
    y_L = f_S[x_L]
    word, columns = {
      "first": ("f", (x_L, y_L)),
      "second": ("g", (x_L, g_S[x_L])),
      COMPOSED: ("fg", (x_L, y_L, g_S[y_L])),
    }[kind]
    told_LC = name_S[np.stack(columns, axis=1)]
    return "\n".join(" ".join((word, *told_C)) for told_C in told_LC)

  kinds = {"first": documents, "second": documents, COMPOSED: composed}
  pool = [
    {"text": text(kind), "source": kind}
    for kind, count in kinds.items()
    for _ in range(count)
  ]
  exam = [
    {"text": text(COMPOSED), "split": split}
    for split in ("train", "validation", "test")
    for _ in range(_EXAM)
  ]
  folder.mkdir(parents=True, exist_ok=True)
  paths = folder / "pool.jsonl", folder / f"{COMPOSED}.jsonl"
  for path, rows in zip(paths, (pool, exam), strict=True):
    content = "".join(f"{json.dumps(row)}\n" for row in rows)
    store.write_atomically(path, content)
  return paths


def show(found: Results) -> Iterator[Path]:
  """What each order is worth, and when the composition was read."""
  (target,) = found.targets
  natural = found.bpb(NATURAL, target)
  rows = [[NATURAL, f"{np.mean(natural):.3f}", *[""] * (_MOMENTS + 1)]]
  for method in found.trained(found.config.compare.methods):
    if method == NATURAL:
      continue
    share_SM = np.array(
      [_shares(found, method, target, seed) for seed in set(found.searches)]
    )
    rows.append(
      [
        method,
        claims.signed(found.difference(method, NATURAL, target)),
        f"{np.mean(share_SM):.2f}",
        *(f"{share:.2f}" for share in share_SM.mean(axis=0)),
      ]
    )
  yield claims.write_table(
    found.folder / "order.md",
    "Test bits per byte of the composition, - natural's; its share of the training",
    [
      *("order", "BPB", "mean share"),
      *(f"{part + 1} of {_MOMENTS}" for part in range(_MOMENTS)),
    ],
    rows,
  )


def _shares(found: Results, method: str, target: str, seed: int) -> list[float]:
  """The composition's share in the middle of every part of a run."""
  cell = plans.of_comparison(found.config).search(method, target, seed)
  schedule = schedules.load(found.cells.kept(cell))
  at = schedule.stages[0].partition.sources.index(COMPOSED)
  middle_M = (np.arange(_MOMENTS) + 0.5) / _MOMENTS * schedule.steps
  return [float(schedule.at(int(m)).mixture_L[at]) for m in middle_M]


if __name__ == "__main__":
  sys.exit(main())
