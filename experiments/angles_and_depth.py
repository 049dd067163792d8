"""Angles and depth: one cut into 16, or several cuts of different angles?

  python -m experiments.angles_and_depth --config claims:toy --workdir runs/claims

Compares sixteen leaves as 1 level, 2 levels of 4 and 4 levels of 2; with one learned
projection for all levels or one for each; with prototypes for each node or shared by a
level; and sixteen fixed leaves with a tree that grows to as many, in as many rounds.
Besides the losses it shows how much the learned angles overlap, what each level tells
of a document's source, language, domain, length and reference loss, and every event of
the growth with what it promised and what later rounds measured.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cmtree_jax.jobs.command import command
from cmtree_jax.recipe import partition as partitions
from experiments import claims
from experiments.claims import Results

TREES = (
  *("angles_flat16", "angles_4x4", "angles_2x2x2x2"),
  *("shared_4x4", "shared_2x2x2x2", "oblivious_4x4", "oblivious_2x2x2x2"),
)
GROWN = "grown_16"
GROWTH = ("joint_16", "rounds_12", GROWN)  # fixed, at more rounds, and grown
SHOWN = ("angles_4x4", "angles_2x2x2x2", "oblivious_2x2x2x2")  # level by level
BINS = 8  # quantiles that lengths and losses are cut into


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.angles_and_depth",
    "One angle against many, shallow against deep, at 16 leaves.",
    claims.job("angles_and_depth", (*TREES, *GROWTH), show),
    arguments,
  )


def show(found: Results) -> Iterator[Path]:
  """Losses; overlaps; and what each level separates, as table and figure."""
  trees = found.trained(TREES)
  yield claims.write_differences(found, "depth.md", "tree", trees)
  yield claims.write_table(
    found.folder / "overlap.md",
    "Mean overlap of two levels' angles, from 0 to 1",
    ["tree", *found.targets],
    (
      [tree, *(_overlap(found, tree, t) for t in found.targets)]
      for tree in trees
    ),
  )
  grown = found.trained(GROWTH)
  yield claims.write_differences(found, "growth.md", "tree", grown)
  if GROWN in grown:
    yield _events(found)
  if shown := found.trained(SHOWN):
    yield from _separation(found, shown)


def _events(found: Results) -> Path:
  """Every event, with its gain in squared bits per byte."""
  lines = []
  for target in found.targets:
    for row in found.found(GROWN, target).history:
      if "event" not in row:
        continue
      later = "taken back" if row["undone"] else "-"
      if row["rounds"]:
        later = f"{row['measured']:+.2g}"
      lines.append(
        [
          *(target, str(row["step"]), row["event"], row["node"] or "root"),
          *(f"{row['promised']:+.2g}", later),
        ]
      )
  return claims.write_table(
    found.folder / "events.md",
    "Events of the tree that grows",
    ["target", "round", "event", "node", "promised", "measured later"],
    lines,
  )


def _overlap(found, tree, target):
  from cmtree_jax.evaluate import angles

  pairs = angles.overlaps(_theta(found, tree, target)).values()
  return f"{np.mean(list(pairs)):.2f}" if pairs else "-"


def _theta(found, tree, target):

  partition = found.found(tree, target).partition
  return partitions.partition_from_json(partition).weights.theta


def _separation(found: Results, trees: Sequence[str]) -> Iterator[Path]:
  """Bits that a level adds to those above it, as shares of the label's entropy."""
  from cmtree_jax.evaluate import angles

  features_NE, mass_N, labels = _documents(found)
  lines, grids = [], {}
  for target in found.targets:
    for tree in trees:
      rows = angles.separations(
        _theta(found, tree, target), features_NE, mass_N, labels
      )
      depth = max(row.level for row in rows) + 1
      grid = np.zeros((depth, len(labels)))
      for row in rows:
        grid[row.level, list(labels).index(row.label)] = row.added_share
      grids[target, tree] = grid
      for level, shares in enumerate(grid):
        share = [f"{one:.2f}" for one in shares]
        lines.append([target, tree, str(level + 1), *share])
  yield claims.write_table(
    found.folder / "separation.md",
    "Share of a label's entropy that each level adds to those above it",
    ["target", "tree", "level", *labels],
    lines,
  )
  yield _draw(found, trees, grids, list(labels))


def _draw(found, trees, grids, labels):
  from matplotlib.figure import Figure

  figure = Figure(
    (2.6 * len(trees) + 1, 1.5 * len(found.targets) + 1), layout="constrained"
  )
  axes = figure.subplots(len(found.targets), len(trees), squeeze=False)
  for line, target in zip(axes, found.targets, strict=True):
    for ax, tree in zip(line, trees, strict=True):
      grid = grids[target, tree]
      image = ax.imshow(grid, vmin=0, vmax=0.5, cmap="Blues", aspect="auto")
      for (level, label), share in np.ndenumerate(grid):
        color = "white" if share > 0.3 else "black"
        ax.text(
          label, level, f"{share:.2f}", ha="center", va="center",
          fontsize=7, color=color,
        )  # fmt: skip
      ax.set_yticks(range(len(grid)), [f"{n + 1}" for n in range(len(grid))])
      ax.set_xticks(range(len(labels)), labels, rotation=35, ha="right")
      ax.tick_params(length=0, labelsize=7)
      ax.set_title(f"{target}, {tree}", fontsize=8)
    line[0].set_ylabel("level", fontsize=8)
  bar = figure.colorbar(image, ax=axes, shrink=0.7)
  bar.set_label("share of entropy added", fontsize=8)
  bar.ax.tick_params(labelsize=7)
  return claims.save(figure, found.folder / "separation.svg")


def _documents(found: Results) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
  """Features, masses and labels of a sample of the pool."""
  from cmtree_jax.evaluate import angles
  from cmtree_jax.jobs import hidden, known

  config, data = found.config, found.data()
  rows = known.sample_rows(config, data)
  rows = rows[:: max(1, len(rows) // config["values"].sample_documents)]
  tokens = data.pool.tokens
  known_labels = hidden.labels(data)
  source_N, names = known_labels.pop("source")
  names = np.array(names)[source_N[rows]]
  mass_N = tokens.mass_N[rows]
  loss_N = _reference_loss(config, data, rows)

  def numbered(texts):
    return np.unique(texts, return_inverse=True)[1]

  labels = {
    "source": numbered(names),
    "language": numbered([_language(name) for name in names]),
    "domain": numbered([_domain(name) for name in names]),
    "length": angles.quantile_bins(tokens.pairs_N[rows], mass_N, BINS),
    "reference loss": angles.quantile_bins(loss_N, mass_N, BINS),
    **{name: label_N[rows] for name, (label_N, _) in known_labels.items()},
  }
  return np.asarray(data.pool.embedding_NE[rows]), mass_N, labels


# Sources of several languages are called after them: messages_fr, parliament/de.
_IN_LANGUAGE = re.compile(r"(messages|parliament|recipes|cli_pages)[_/](\w+)$")
_PROGRAMS = re.compile(r"(code_|sympy|django|sphinx|modules|tests)")


def _language(source: str) -> str:
  if found := _IN_LANGUAGE.match(source):
    return found[2]
  return "programs" if _PROGRAMS.match(source) else "en"


def _domain(source: str) -> str:
  """A source without its language, site or subject: code_sympy, textbook/x."""
  return re.split(r"[_/]", source)[0]


def _reference_loss(config: Any, data: Any, rows: np.ndarray) -> np.ndarray:
  """Mean nats per token of documents under a model of the natural mixture."""
  from cmtree_jax.data.draw import packing
  from cmtree_jax.data.draw.batch import stack_rows
  from cmtree_jax.jobs import build as settings
  from cmtree_jax.jobs import search as learn
  from cmtree_jax.proxy import engine

  model = settings.proxy_of(config.proxy.preset, config, data.vocab_size)
  steps = config.final.steps
  made = engine.make(model, settings.optimizer_of(config, total_steps=steps))
  phi = made.init(jax.random.key(config.seed)[None])
  sampler = learn.pool_sampler(data, config, seed=config.seed)
  cursor = sampler.start(sampler.init(), np.ones(len(data.pool)))
  _, drawn = sampler.draw(cursor, steps * config.batch.rows)
  batches = jax.tree.map(
    lambda x: x[None], stack_rows(drawn, config.batch.rows)
  )
  ones = np.ones(batches.tokens_BT.shape, np.float32)
  phi, _ = made.train(phi, batches, ones, np.array([True]))
  # The first piece of every document, as much of it as fits into a row.
  row_tokens = config.batch.row_tokens
  pieces = packing.pieces(data.pool.tokens, row_tokens)
  _, first = np.unique(pieces.document, return_index=True)
  chunk = config.evaluate.rows
  found = np.zeros(len(data.pool))
  count = np.zeros(len(data.pool))
  order = first[rows]
  for start in range(0, len(order), 64 * chunk):
    part = order[start : start + 64 * chunk]
    batch = packing.pack(data.pool.tokens, pieces, part, num_rows=64 * chunk)
    chunks = type(batch)(*(x.reshape(64, chunk, row_tokens) for x in batch))
    loss = np.asarray(made.losses(phi.params, chunks))[0]
    seen = chunks.document_BT >= 0
    np.add.at(found, chunks.document_BT[seen], loss[seen])
    np.add.at(count, chunks.document_BT[seen], 1)
  return (found / np.maximum(count, 1))[rows]


if __name__ == "__main__":
  sys.exit(main())
