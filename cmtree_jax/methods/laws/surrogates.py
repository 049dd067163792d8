"""What a mixture's loss would be, learned from the losses of other mixtures.

The regressors are LightGBM's boosted trees, with the settings of the two works that
use them. They rank mixtures well near those that were run and promise too much at
their own optimum: a predicted gain is never a result.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cmtree_jax.types import UserError


class Settings(NamedTuple):
  """Settings of the boosting; what is not named has LightGBM's defaults."""

  patience: int  # rounds without gain on held-out runs before it stops
  # Penalties on the sum of gradients in a leaf, for losses of variance one.
  l1: float
  l2: float
  max_depth: int  # -1: no limit but 31 leaves
  min_leaf: int  # least runs in a leaf
  rounds: int = 1000
  learning_rate: float = 0.01
  holdout: float = 0.1  # share of the runs that is held out


REGMIX = Settings(patience=3, l1=0.0, l2=0.0, max_depth=-1, min_leaf=20)
CLIMB = Settings(patience=20, l1=1.0, l2=1.0, max_depth=4, min_leaf=5)


def named(name: str) -> Settings:
  """The settings of a published work."""
  known = {"climb": CLIMB, "regmix": REGMIX}
  if name not in known:
    raise UserError(f"Unknown surrogate {name!r}. Known: {', '.join(known)}.")
  return known[name]


class Surrogate(NamedTuple):
  """One regressor per target."""

  boosters: tuple[Any, ...]  # lightgbm.Booster
  mean_T: np.ndarray
  scale_T: np.ndarray

  def predict(self, mixture_CK: np.ndarray) -> np.ndarray:
    """Losses [C, T]."""
    scaled_TC = [booster.predict(mixture_CK) for booster in self.boosters]
    return np.stack(scaled_TC, axis=1) * self.scale_T + self.mean_T


def fit(
  mixture_RK: Float[np.ndarray, "R K"],
  loss_RT: Float[np.ndarray, "R T"],
  settings: Settings,
  *,
  seed: int = 42,
  validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> Surrogate:
  """Gradient-boosted trees for each column of losses.

  Boosting stops early on runs that are held out, a share of those given. RegMix's
  notebook stops on the very mixtures that it then tests on, which flatters the
  test; to repeat it, pass them as `validation`. Patience is never longer than the
  number of runs held out, as in CLIMB's recipe.

  Losses are centered and scaled to variance one before the fit. Without penalties
  this changes nothing, and CLIMB's penalties are meant for points of accuracy, whose
  spread over mixtures is about one, not for bits per byte.

  Args:
    mixture_RK: the mixtures that were run.
    loss_RT: their losses.
    settings: `REGMIX`, `CLIMB` or your own.
    seed: chooses the held-out runs, and is LightGBM's.
    validation: mixtures [V, K] and losses [V, T] to stop on instead.
  Raises:
    ValueError: without any run.
  """
  if not len(mixture_RK):
    raise UserError("A surrogate needs at least one run, got none.")
  order_R = np.random.default_rng(seed).permutation(len(mixture_RK))
  held = 0 if validation else max(1, round(settings.holdout * len(mixture_RK)))
  train_R = order_R[held:] if len(order_R) > held else order_R
  if validation is None:
    validation = mixture_RK[order_R[:held]], loss_RT[order_R[:held]]
  mean_T = loss_RT[train_R].mean(axis=0)
  scale_T = loss_RT[train_R].std(axis=0)
  scale_T = np.where(scale_T > 0, scale_T, 1.0)
  boosters = []
  for target in range(loss_RT.shape[1]):
    scaled_R, scaled_V = (
      (loss[:, target] - mean_T[target]) / scale_T[target]
      for loss in (loss_RT[train_R], validation[1])
    )
    boosters.append(
      _boost(
        (mixture_RK[train_R], scaled_R),
        (validation[0], scaled_V),
        settings,
        seed=seed,
      )
    )
  return Surrogate(tuple(boosters), mean_T, scale_T)


def mean_of_best(
  mixture_CK: Float[np.ndarray, "C K"],
  loss_C: Float[np.ndarray, " C"],
  best: int,
) -> np.ndarray:
  """The mean of the candidates of least loss; all that tie with the last one count.

  Trees are constant on boxes, so ties are common. If a surrogate learned nothing,
  all candidates tie, and their mean is the prior.
  """
  rank = min(best, len(loss_C)) - 1
  return mixture_CK[loss_C <= np.sort(loss_C)[rank]].mean(axis=0)


def _boost(
  train: tuple[np.ndarray, np.ndarray],
  validation: tuple[np.ndarray, np.ndarray],
  settings: Settings,
  *,
  seed: int,
) -> Any:
  import lightgbm

  parameters = {
    "objective": "regression",
    "metric": ["l2", "l1"],  # the first of them to stall ends it, as published
    "learning_rate": settings.learning_rate,
    "lambda_l1": settings.l1,
    "lambda_l2": settings.l2,
    "max_depth": settings.max_depth,
    "min_data_in_leaf": settings.min_leaf,
    "seed": seed,
    "num_threads": 1,  # more would round differently
    "verbosity": -1,
  }
  patience = min(settings.patience, len(validation[0]))
  data = lightgbm.Dataset(train[0], train[1])
  return lightgbm.train(
    parameters,
    data,
    settings.rounds,
    valid_sets=[lightgbm.Dataset(*validation, reference=data)],
    callbacks=[lightgbm.early_stopping(patience, verbose=False)],
  )
