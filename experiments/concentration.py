"""How concentrated a recipe should be, found at two sizes of trials 16 times apart.

  python -m experiments.concentration --config claims:toy --workdir runs/concentration

Each method's kept share is chosen by trials that are as long as a final training on a
model of its size, and by trials of a quarter of the tokens on a model with a quarter of
the FLOPs. A power law through both says what the training of the budget asks for. What
the final trainings make of the two choices says what the larger trials are worth.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cmtree_jax.evaluate import concentration, statistics
from cmtree_jax.jobs.command import command
from experiments import claims
from experiments.claims import Results

METHODS = ("joint_16", *claims.FREE)
FACTOR = 4  # in tokens; the proxy is as much smaller than the final model


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.concentration",
    "The kept share that two sizes of trials find.",
    run,
    arguments,
  )


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Compares under each size of trials, then shows both."""
  from cmtree_jax.report import tables

  parts = []
  for name, own in _configs(config).items():
    status, found = claims.compared(
      own, workdir / name, "concentration", METHODS, overwrite=overwrite
    )
    if status:
      return status
    parts.append(found)
  tables.show_files(list(show(*parts, workdir)))
  return 0


def _configs(config: Any) -> dict[str, Any]:
  """Comparisons with both sizes of trials."""
  found = {}
  for name, preset, factor in (
    ("small", config.proxy.preset, FACTOR),
    ("large", config.final.preset, 1),
  ):
    own = found[name] = claims.plain(config)
    own.trial.preset = preset
    own.trial.steps = config.final.steps // factor
    own.trial.steps_per_call = config.final.steps_per_call
    own.lock()
  return found


def show(small: Results, large: Results, folder: Path) -> Iterator[Path]:
  """A table for every set of targets."""
  compute, wanted = _sizes(small.data(), small.config, large.config)
  for target in small.targets:
    rows = []
    for method in small.trained(small.config.compare.methods):
      shares = [
        one.value(method, target, "effective_sample_size")
        for one in (small, large)
      ]
      found, slope = concentration.extrapolated(
        dict(zip(compute, shares, strict=True)), wanted
      )
      gain = statistics.paired_difference(
        large.bpb(method, target),
        small.bpb(method, target),
        search_S=large.searches,
      )
      rows.append(
        [
          method,
          *(f"{share:.3f}" for share in shares),
          *(f"{found:.3f}", f"{slope:+.2f}", claims.signed(gain)),
        ]
      )
    yield claims.write_table(
      folder / f"concentration.{target}.md",
      f"Kept share by the FLOPs of a trial, {target}",
      [
        *("method", *(f"{one:.1e}" for one in compute)),
        *(f"at the budget's {wanted:.1e}", "power of the FLOPs"),
        "final BPB, choice of large trials - of small ones",
      ],
      rows,
    )


def _sizes(data: Any, *configs: Any) -> tuple[list[float], float]:
  """FLOPs, 6 P B without the embedding: of a trial, and of the budget's training."""
  from cmtree_jax.jobs import build

  budget = build.budget(configs[0], data)
  found = []
  for config in configs:
    trial, batch = config.trial, config.batch
    model = build.proxy_of(trial.preset, config, data.vocab_size)
    tokens = trial.steps * batch.rows * batch.row_tokens
    found.append(6.0 * model.num_non_embedding * tokens)
  return found, 6.0 * budget.parameters * budget.tokens


if __name__ == "__main__":
  sys.exit(main())
