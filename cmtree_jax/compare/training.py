"""The final trainings of a comparison, and the frozen evaluation of their models."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import engine, learn, loops, prepare, settings
from cmtree_jax import workdir as workdirs
from cmtree_jax.checkpoint import Checkpointer
from cmtree_jax.compare import cells
from cmtree_jax.data import sampler
from cmtree_jax.data.store import SCORED_SPLITS
from cmtree_jax.evaluate import answers, perplexity
from cmtree_jax.ledger import GRADIENT, Cost


class Training(NamedTuple):
  """What all final trainings share."""

  job: learn.Job
  pool: sampler.Sampler
  # By (target, split).
  eval_sets: dict[tuple[str, str], perplexity.EvalSet | answers.AnswerSet]
  engine_of: Callable[[int], engine.Engine]  # of so many steps
  flops_per_token: float  # of a forward pass
  commit: str | None

  @classmethod
  def make(cls, job: learn.Job, data: prepare.Prepared) -> "Training":
    """Samples, frozen evaluation and compiled functions of a corpus."""
    config = job.config
    row_tokens = config.batch.row_tokens
    places = _places(data.targets)
    documents = {
      f"{target}, {split}": data.targets[target][split]
      for target, split in places
    }
    sets = learn.scored_sets(documents, job)
    model = settings.proxy_of(config.final.preset, config, data.vocab_size)
    return cls(
      job=job,
      pool=learn.pool_sampler(data, config, seed=0),
      eval_sets=dict(zip(places, sets, strict=True)),
      engine_of=_engines(config, model),
      flops_per_token=model.flops_per_token(row_tokens),
      commit=workdirs.git_commit(),
    )

  def scores(
    self, cell: cells.Final, targets: tuple[str, ...], folder: cells.Folder
  ) -> dict[str, Any]:
    """Trains on what the cell's search found and scores the model.

    Args:
      cell: says which.
      targets: that the model is scored on.
      folder: of the cells; a training in progress keeps its checkpoints there.
    Raises:
      Fault: a loss is not finite.
      Interrupted: after saving.
    """
    config, batch = self.job.config, self.job.config.batch
    final, steps = config.final, steps_of(config, cell.fraction)
    places = _places(targets)
    checkpointer = Checkpointer(folder.work(cell))
    text = f"final training, {cell.name}"
    found = loops.mixture_runs(
      {cell.name: folder.log_w_N(cell.search).astype(np.float64)},
      [self.pool._replace(seed=1000 + cell.seed)],
      [self.eval_sets[place] for place in places],
      loops.RunPlan(
        steps, batch.rows, final.steps_per_call, final.calls_per_save
      ),
      self.engine_of(steps),
      checkpointer=checkpointer,
      stop=self.job.stop,
      advance=lambda work, said: self.job.reporter.advance(
        work, text if said else ""
      ),
      first_seed=cell.seed,
    )
    checkpointer.close()
    accuracy = [
      None if np.isnan(x) else float(x) for x in found.accuracy[0, 0]
    ]  # JSON has no NaN
    tokens = steps * batch.rows * batch.row_tokens
    return {
      "bpb": _by_place(places, found.bpb[0, 0].tolist()),
      "accuracy": _by_place(places, accuracy),
      "tokens": tokens,
      "final_flops": Cost().plus(tokens, GRADIENT, self.flops_per_token).flops,
      "commit": self.commit,
    }


def steps_of(config: Any, fraction: float) -> int:
  """Training steps at a share of the token budget."""
  return round(config.final.steps * fraction)


def _places(targets: Iterable[str]) -> list[tuple[str, str]]:
  """What a model is scored on: (target, split)."""
  return [(target, split) for target in targets for split in SCORED_SPLITS]


def _by_place(
  places: list[tuple[str, str]], values: list[Any]
) -> dict[str, dict[str, Any]]:
  """Target -> split -> value."""
  found: dict[str, dict[str, Any]] = {}
  for (target, split), value in zip(places, values, strict=True):
    found.setdefault(target, {})[split] = value
  return found


def _engines(config: Any, model: Any) -> Callable[[int], engine.Engine]:
  """One engine per number of steps: the learning rate decays over its own."""
  mesh = settings.final_mesh(config)

  def make(steps):
    optimizer = settings.optimizer_of(config, total_steps=steps)
    return engine.make(model, optimizer, mesh=mesh)

  full = make(config.final.steps)

  @functools.cache
  def engine_of(steps):
    # What does not depend on the optimizer's steps is compiled once.
    return make(steps)._replace(
      init=full.init, weighted_nats=full.weighted_nats, losses=full.losses
    )

  return engine_of
