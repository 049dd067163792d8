"""The story of a job on runs that a person has: fit them, and say how sure that is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cmtree_jax import checks, processes
from cmtree_jax import config as configs
from cmtree_jax.data import store
from cmtree_jax.data.read import mixture_runs
from cmtree_jax.data.read.mixture_runs import Runs
from cmtree_jax.jobs import job as jobs
from cmtree_jax.jobs.job import Job, Show
from cmtree_jax.methods import METHODS
from cmtree_jax.methods.base import Facts, Method
from cmtree_jax.methods.laws import laws, refit, surrogates
from cmtree_jax.methods.searching import Trials
from cmtree_jax.report import fits, tables
from cmtree_jax.types import UserError

MIXTURE_FILE = "mixture.json"
TABLE_FILE = "table.md"
BLOCK = "from_runs"  # of the config, which says that this is such a job

# The runs are there; methods are not to plan others.
_PLANNED = {"olmix": "runs", "regmix": "runs", "mixing_laws": "num_mixtures"}


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Fits the runs of a file; returns the exit status.

  Args:
    config: locked; see configs/from_runs.py.
    workdir: gets the table and mixture.json.
    overwrite: throws away what another job left in `workdir`.
  Raises:
    UserError: a setting or the file is wrong.
  """
  _check(config)
  return jobs.run(_story, config, workdir, overwrite=overwrite)


def _check(config: Any) -> None:
  chosen = config.from_runs
  if not chosen.methods or not set(chosen.methods) <= set(_PLANNED):
    raise UserError(
      f"config.from_runs.methods must be of {', '.join(_PLANNED)}, came "
      f"{', '.join(chosen.methods) or 'none'}."
    )
  if config.mixing_laws.extrapolate:
    raise UserError(
      "config.mixing_laws.extrapolate wants curves of the runs, which a table does "
      "not have; leave it at False here."
    )
  if config.mixing_laws.aggregation != "targets":
    raise UserError(
      "config.mixing_laws.aggregation must be 'targets' here, came "
      f"{config.mixing_laws.aggregation!r}: a table has the targets' losses alone."
    )
  if config.olmix.reuse:
    raise UserError(
      "config.olmix.reuse extends the recipe of a corpus, and here is none."
    )
  try:
    checks.at_least(2, draws=chosen.draws, left_out=chosen.left_out)
    checks.finite(max_weight=chosen.max_weight)
    if chosen.max_weight:
      checks.at_least(1, max_weight=chosen.max_weight)
  except ValueError as error:
    raise UserError(f"config.from_runs.{error}") from error


def _story(job: Job) -> Show:
  chosen = job.config.from_runs
  found = mixture_runs.read(
    Path(chosen.file).expanduser(), mixture=chosen.mixture, loss=chosen.loss
  )
  q_K = _natural(found, job.config)
  _require_enough(found, q_K, chosen.file)
  methods = chosen.methods
  if _too_few_for_trees(found, job.config):
    methods = [name for name in methods if name != "regmix"]
    job.reporter.say(
      f"regmix is left out: its trees (config.regmix.surrogate = "
      f"{job.config.regmix.surrogate}) cannot split {len(found.loss_RT)} runs."
    )
  job.reporter.expect(len(methods))
  made = []
  for name in methods:
    job.stop.check()
    job.reporter.advance(0, f"fits of {name}")
    made.append(_fit(name, found, q_K, job.config))
    job.reporter.advance(1, "")
  if not made:
    raise UserError(f"{chosen.file}: too few runs for {chosen.methods[0]}.")

  def written() -> Show:
    table, mixture = job.workdir / TABLE_FILE, job.workdir / MIXTURE_FILE
    store.write_atomically(table, fits.markdown(made, found, q_K))
    store.write_atomically(mixture, store.to_json(fits.to_json(made, found)))

    def show():
      fits.show(made, found, q_K)
      tables.show_files([table, mixture])

    return show

  return processes.by_first(written) or (lambda: None)


def _natural(found: Runs, config: Any) -> np.ndarray:
  """The domains' shares of the corpus, q."""
  given = config.from_runs.natural
  if not len(given):
    return found.mixture_RK.mean(axis=0)
  q_K = np.array(given, np.float64)
  if (
    len(q_K) != len(found.domains) or abs(q_K.sum() - 1) > 1e-3 or q_K.min() < 0
  ):
    raise UserError(
      f"config.from_runs.natural must be {len(found.domains)} shares that sum to "
      f"one ({', '.join(found.domains)}), came {', '.join(map(str, given))}."
    )
  return q_K / q_K.sum()


def _require_enough(found: Runs, q_K: np.ndarray, file: str) -> None:
  """A law has a slope for every domain that may be drawn, and a constant."""
  needed = int((q_K > 0).sum()) + 1
  if len(found.loss_RT) < needed:
    raise UserError(
      f"{file}, line {len(found.loss_RT) + 1}: the file ends after "
      f"{len(found.loss_RT)} runs; wanted at least {needed} for the law of "
      f"{needed - 1} domains, and better {3 * needed}."
    )


def _too_few_for_trees(found: Runs, config: Any) -> bool:
  settings = surrogates.named(config.regmix.surrogate)
  kept = len(found.loss_RT) * (1 - settings.holdout)
  return kept < 2 * settings.min_leaf


def _fit(name: str, found: Runs, q_K: np.ndarray, config: Any) -> fits.Fit:
  """A method's optimum, its interval, and how its law predicts left-out runs."""
  chosen = config.from_runs
  solve, predict = solver(name, found, q_K, config), _predictor(name, config)
  runs = found.mixture_RK, found.loss_RT
  mixture_K = solve(*runs)
  drawn_DK = refit.bootstrap(solve, *runs, draws=chosen.draws, seed=config.seed)
  at_2T = predict(*runs, np.stack([mixture_K, q_K]))
  return fits.Fit(
    name,
    mixture_K,
    *np.quantile(drawn_DK, (0.025, 0.975), axis=0),
    predicted_gain=float(np.diff(at_2T.mean(axis=1))[0]),
    error=refit.leave_one_out(predict, *runs, most=chosen.left_out),
  )


def solver(name: str, found: Runs, q_K: np.ndarray, config: Any) -> refit.Solve:
  """(mixtures, losses) -> the mixture that the method makes of these runs."""
  options = configs.factory_options(name, config[name]) | {_PLANNED[name]: 1}
  try:
    method = METHODS[name].make(**options)
  except ValueError as error:
    raise UserError(f"config.{name}: {error}") from error
  max_weight = config.from_runs.max_weight or 1 / q_K[q_K > 0].min()
  state = method.init(
    jax.random.key(config.seed),
    facts_of(q_K, len(found.targets), max_weight),
  )

  def solve(mixture_RK: np.ndarray, loss_RT: np.ndarray) -> np.ndarray:
    return _mixture(method, state, mixture_RK, loss_RT, q_K)

  return solve


def _mixture(
  method: Method, state: Any, mixture_RK, loss_RT, q_K: np.ndarray
) -> np.ndarray:
  """What the method ends with after these runs."""
  runs = len(mixture_RK)
  trials = Trials(mixture_RK, np.zeros(runs, int), loss_RT, np.array(runs))
  weights: Any = method.finalize(state._replace(trials=trials))
  p_K = q_K * np.exp(np.asarray(weights.log_w_K, np.float64))
  return p_K / p_K.sum()


def facts_of(q_K: np.ndarray, num_targets: int, max_weight: float) -> Facts:
  """Of a corpus of which only the domains' shares are known."""
  none, no_NE = np.zeros(0), np.zeros((0, 1))
  return Facts(
    max_weight=max_weight,
    epochs=1.0,
    r_star=1.0,
    horizon=1.0,
    sample_NE=no_NE,
    sample_mass_N=none,
    target_NE=no_NE,
    target_mass_N=none,
    target_of_N=none,
    held_out_NE=no_NE,
    held_out_mass_N=none,
    held_out_of_N=none,
    domain_mass_K=q_K,
    target_domain_TK=np.tile(q_K, (num_targets, 1)),
    curve_steps=(1,),
    sizes=(1,),
  )


def _predictor(name: str, config: Any) -> refit.Predict:
  """(mixtures, losses, other mixtures) -> the losses that the method's law predicts."""
  makers: dict[str, Callable[..., Any]] = {
    "regmix": lambda runs, losses: surrogates.fit(
      runs, losses, surrogates.named(config.regmix.surrogate)
    ),
    "olmix": lambda runs, losses: laws.fit_log_linear(
      runs, losses, huber_delta=config.olmix.huber_delta
    ),
    "mixing_laws": lambda runs, losses: laws.fit_log_linear(
      runs, losses, huber_delta=config.mixing_laws.huber_delta
    ),
  }
  return lambda runs, losses, mixture_CK: makers[name](runs, losses).predict(
    mixture_CK
  )
