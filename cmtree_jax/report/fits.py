"""What fits of a person's runs come to: a table of mixtures, and mixture.json."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.data.read.mixture_runs import Runs
from cmtree_jax.methods.laws.refit import Error
from cmtree_jax.report import screen, tables


class Fit(NamedTuple):
  """What one method makes of runs."""

  method: str
  mixture_K: np.ndarray
  low_K: np.ndarray  # 95 % interval, by drawing the runs again
  high_K: np.ndarray
  # By how much its law says that natural's mean loss falls; no measurement.
  predicted_gain: float
  error: Error  # of its law on runs that it has not seen


_NOTE = (
  "Shares with 95 % intervals, by drawing the runs again. The error is that of a run's "
  "mean loss when it is predicted from all others; what predicts every run to be as "
  "the mean of the others has the error in brackets. The predicted gain is how much "
  "lower than natural's a law says that the mixture's mean loss is. Mean losses are "
  "means over the targets, in the unit of the table's losses. A predicted gain is no "
  "result: published ones overstate it, so train on the mixture and on natural."
)


def best(fits: Sequence[Fit]) -> Fit:
  """The one whose law predicts left-out runs best."""
  return min(fits, key=lambda one: one.error.rmse)


def _rows(fits: Sequence[Fit], runs: Runs, q_K: np.ndarray) -> list[list[str]]:
  rows = []
  for k, domain in enumerate(runs.domains):
    shares = [" ".join(_share(one, k)) for one in fits]
    rows.append([domain, f"{q_K[k]:.1%}", *shares])
  told = zip(*(_of_law(one).values() for one in fits), strict=True)
  names = _of_law(fits[0])
  return rows + [
    [name, "", *cells] for name, cells in zip(names, told, strict=True)
  ]


def _share(one: Fit, k: int) -> tuple[str, str]:
  """A domain's share and its interval."""
  return (
    f"{one.mixture_K[k]:.1%}",
    f"[{one.low_K[k]:.1%}, {one.high_K[k]:.1%}]",
  )


def _of_law(one: Fit) -> dict[str, str]:
  """What is told of a method's law."""
  error = one.error
  return {
    "predicted gain in mean loss": f"{one.predicted_gain:+.4f}",
    "leave-one-out error": f"{error.rmse:.4f} ({error.rmse_of_mean:.4f})",
    "rank correlation": _number(error.rank_correlation),
  }


def _cell(text: str) -> str:
  return screen.printable(text).replace("|", "\\|")


def _number(x: float) -> str:
  return "-" if math.isnan(x) else f"{x:.2f}"


def markdown(fits: Sequence[Fit], runs: Runs, q_K: np.ndarray) -> str:
  """The table of all methods."""
  methods = [one.method for one in fits]
  lines = [["domain", "natural", *methods]]
  lines.append(["---"] + ["---:"] * (1 + len(fits)))
  lines += _rows(fits, runs, q_K)
  # Names of domains are of a person's file.
  cells = [[_cell(text) for text in line] for line in lines]
  table = "\n".join("| " + " | ".join(line) + " |" for line in cells)
  return f"{_head(fits, runs)}\n\n{table}\n\n{_NOTE}\n"


def show(fits: Sequence[Fit], runs: Runs, q_K: np.ndarray) -> None:
  """Prints it, one method below the other: a screen has no room for all abreast."""
  console = screen.console()
  console.print(_head(fits, runs))
  for one in fits:
    rows = [
      [domain, f"{q_K[k]:.1%}", *_share(one, k)]
      for k, domain in enumerate(runs.domains)
    ]
    columns = ["natural", "share", "95 % interval"]
    made = tables.table(one.method, columns, rows, first="domain")
    made.columns[0].no_wrap, made.columns[0].overflow = False, "fold"
    console.print(made)
    for name, text in _of_law(one).items():
      console.print(f" {name}: {text}")
    console.print()
  console.print(_NOTE)


def _head(fits: Sequence[Fit], runs: Runs) -> str:
  number, targets = runs.loss_RT.shape
  return (
    f"{number} runs, {targets} target{'s' * (targets > 1)}. mixture.json has the "
    f"mixture of {best(fits).method}, whose law predicts left-out runs best."
  )


def to_json(fits: Sequence[Fit], runs: Runs) -> dict[str, Any]:
  """mixture.json: the best one's weights as doremi.json has them, and all fits."""

  def named(share_K: np.ndarray) -> dict[str, float]:
    return dict(zip(runs.domains, share_K.tolist(), strict=True))

  chosen = named(best(fits).mixture_K)
  return {
    "train_domain_weights": chosen,
    "eval_domain_weights": chosen,
    "weights_are": "shares of tokens",
    "method": best(fits).method,
    "fits": {
      one.method: {
        "mixture": named(one.mixture_K),
        "low": named(one.low_K),
        "high": named(one.high_K),
        "predicted_gain": one.predicted_gain,
        "leave_one_out": {
          name: None if math.isnan(value) else value
          for name, value in one.error._asdict().items()
        },
      }
      for one in fits
    },
  }
