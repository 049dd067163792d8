r"""What each view tells of documents' values, before a search: R^2 and LDS.

  python -m experiments.views --config configs/views.py --workdir runs/views

Ridge regressions predict what documents are worth from each view and from several. They
are fitted to the values of one half of the proxies and judged by those of the other
half, on other documents: what a proxy makes of a document by chance helps nobody. The
correlation of the halves' own values is the most that any view can reach.

The linear datamodeling score (LDS) is the rank correlation of losses: those of short
trainings, each on half of a sub-pool, and those that the sum of the predicted values of
its documents says.

Views of a model are of one proxy, made before. What the proxies that value a document
make of it themselves stands beside them as refreshed: what a search would gain by
making its views anew for every proxy.

References:
  LDS: Park et al., `TRAK <https://arxiv.org/abs/2303.14186>`_, 2023, definition 2.3.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmtree_jax.jobs.command import command
from experiments import claims

FOLDS = 5  # of documents
WIDER = 4  # times the numbers of the topic


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.views",
    "What views of documents tell of their values.",
    run,
    arguments,
  )


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Measures what is left to be measured, and writes one table."""
  from cmtree_jax.jobs import job as jobs
  from cmtree_jax.jobs import plan as plans

  plans.check_recipe(config)
  return jobs.run(_story, config, workdir, overwrite=overwrite)


def _story(job):
  from cmtree_jax.jobs import job as jobs
  from cmtree_jax.jobs import known, proxy_views
  from cmtree_jax.report import tables
  from experiments import views_measured as measured

  plan = measured.Plan(**job.config.measure)
  data = proxy_views.added(job, jobs.prepared(job))
  chosen = measured.choose(job, data, plan)
  value_PTM, state_PMH = measured.values(job, data, plan, chosen)
  half_RM = measured.halves(plan, chosen)
  loss_RT = measured.losses(job, data, plan, chosen, half_RM)
  tokens_M = data.pool.tokens.pairs_N[chosen.row_M]
  file = show(
    known.driving_names(data),
    value_PTM,
    _features(job, data, chosen.row_M, state_PMH),
    (half_RM * tokens_M, loss_RT),
    job.workdir / "views.md",
  )
  return lambda: tables.show_files([file])


def _features(
  job, data, row_M: np.ndarray, state_PMH: np.ndarray
) -> dict[str, list[np.ndarray]]:
  """The columns of every view, a wider topic, and some of them together."""
  from cmtree_jax.embed import whiten

  found = {
    block.name: np.asarray(
      data.pool.embedding_NE[row_M, block.start : block.stop]
    )
    for block in data.blocks
  }
  wide, wider_NE = _wider_topic(job, data, row_M)
  names = list(found)
  together = [
    *([*names[:1], name] for name in names[1:]),
    names[1:],
    names,
    [*(wide if name == "topic" else name for name in names)],
  ]
  found[wide] = wider_NE
  for some in together:
    joined = np.concatenate([found[name] for name in some], axis=1)
    found.setdefault(" + ".join(some), joined)
  views = {name: [x_ME] for name, x_ME in found.items()}
  dim = job.config.embedding.hidden_dim
  fresh = [whiten.fit(x_MH, dim=dim)(x_MH) for x_MH in state_PMH]
  views["hidden, refreshed"] = fresh
  first, *_ = names
  views[f"{first} + hidden, refreshed"] = [
    np.concatenate([found[first], x_ME], axis=1) for x_ME in fresh
  ]
  return views


def _wider_topic(job, data, row_M: np.ndarray) -> tuple[str, np.ndarray]:
  """The topic with more numbers than the corpus has of it."""
  from cmtree_jax import embed
  from cmtree_jax.jobs import build

  plan = build.corpus_plan(job.config).embedding
  plan = plan._replace(views=("topic",), dim=WIDER * plan.dim)
  sample = np.sort(np.argsort(data.pool.key_N)[: plan.sample])
  made = embed.fit(
    data.documents.rows(sample, "text")["text"],
    plan,
    cache_dir=build.cache_dir(job.config),
  )
  return f"topic {plan.dim}", made(data.documents.rows(row_M, "text")["text"])


def show(
  targets: Sequence[str],
  value_PTM: np.ndarray,
  features: Mapping[str, Sequence[np.ndarray]],
  trained: tuple[np.ndarray, np.ndarray],
  path: Path,
) -> Path:
  """Writes the table: R^2 for each target, and LDS, by view.

  Args:
    targets: names.
    value_PTM: by proxy and target.
    features: of the documents, by view; of several forms of a view the mean is told.
    trained: (tokens [R, M] that each training saw of the documents, its losses
      [R, T]).
    path: of the file.
  """
  one_TM, other_TM, mean_TM = (
    value_PTM[some].mean(axis=0)
    for some in (slice(0, None, 2), slice(1, None, 2), slice(None))
  )
  ceilings = [ceiling(*halves) for halves in zip(one_TM, other_TM, strict=True)]
  most = f"{np.mean(scores(mean_TM, *trained)):+.2f}"
  rows = [["the values themselves", "", *_told(ceilings), most]]
  for name, forms in features.items():
    explained, ranked = [], []
    for x_ME in forms:
      predicted = crossfitted(x_ME, np.stack([one_TM, other_TM, mean_TM]))
      there = r_squared(predicted[0], other_TM)
      back = r_squared(predicted[1], one_TM)
      explained.append((there + back) / 2)
      ranked.append(scores(predicted[2], *trained))
    told = [name, str(forms[0].shape[1]), *_told(np.mean(explained, axis=0))]
    rows.append([*told, f"{np.mean(ranked):+.2f}"])
  return claims.write_table(
    path,
    f"R^2 of {value_PTM.shape[2]} documents' values, {len(value_PTM)} proxies; LDS of "
    f"{len(trained[0])} trainings",
    ["view", "numbers", *targets, "mean R^2", "LDS"],
    rows,
  )


def _told(numbers: Sequence[float]) -> list[str]:
  return [f"{x:.2f}" for x in (*numbers, np.mean(numbers))]


def ceiling(one_M: np.ndarray, other_M: np.ndarray) -> float:
  """The R^2 of what is expected of a half of the proxies: the halves' correlation."""
  return float(np.corrcoef(one_M, other_M)[0, 1])


def r_squared(predicted_TM: np.ndarray, judged_TM: np.ndarray) -> np.ndarray:
  """For every target, of values that other proxies have of the documents."""
  # A half may say larger values than the other: that is no fault of the view.
  return 1 - (judged_TM - predicted_TM).var(axis=-1) / judged_TM.var(axis=-1)


def crossfitted(x_ME: np.ndarray, value_M: np.ndarray) -> np.ndarray:
  """Every document's value by a ridge regression on the documents of other folds.

  Args:
    x_ME: a view of the documents.
    value_M: their values, [..., M]; each row has a regression of its own.
  """
  from sklearn.linear_model import RidgeCV
  from sklearn.model_selection import KFold, cross_val_predict
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  penalties = np.logspace(-1, 5, 13)
  ridge = RidgeCV(penalties, alpha_per_target=True)
  folds = KFold(FOLDS, shuffle=True, random_state=0)
  value_MY = value_M.reshape(-1, len(x_ME)).T
  found_MY = cross_val_predict(
    make_pipeline(StandardScaler(), ridge), x_ME, value_MY, cv=folds
  )
  return found_MY.T.reshape(value_M.shape)


def scores(
  value_TM: np.ndarray, tokens_RM: np.ndarray, loss_RT: np.ndarray
) -> list[float]:
  """LDS for every target: what is worth more lowers the loss."""
  from scipy import stats

  share_RM = tokens_RM / tokens_RM.sum(axis=1, keepdims=True)
  return [
    float(stats.spearmanr(-share_RM @ value_M, loss_R).statistic)
    for value_M, loss_R in zip(value_TM, loss_RT.T, strict=True)
  ]


if __name__ == "__main__":
  sys.exit(main())
