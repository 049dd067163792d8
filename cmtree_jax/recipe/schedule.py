"""A schedule: what a training run was trained on, stage after stage.

A run that moves its weights leaves one. It is a file of JSON, schedule.json, which holds
the mixture over named leaves and the leaves themselves for every stage, and beside it
schedule.parquet, a row for every stage and leaf. The job of the run hands it over with
what new documents are read with, and then it applies to any corpus, as a recipe does.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.data import mirror, sealed, store
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import recipe as recipes
from cmtree_jax.recipe.partition import Partition, TreePartition
from cmtree_jax.types import UserError

FILE = "schedule.json"
TABLE_FILE = "schedule.parquet"
FORMAT = 2  # with digests of itself and of what it reads documents with


class Stage(NamedTuple):
  """What is trained on from one step to another."""

  begin: int  # training step
  end: int
  mass_L: np.ndarray  # the leaves' shares of the corpus's tokens
  mixture_L: np.ndarray  # their shares of the training tokens
  partition: Partition  # the leaves as they are then, with their weights

  @property
  def steps(self) -> int:
    """How long it lasts."""
    return self.end - self.begin


class Schedule(NamedTuple):
  """The stages of a run, in order; leaves are the same ones throughout."""

  method: str
  seed: int  # of the run
  step_tokens: int  # of a training step
  names: tuple[str, ...]  # of the leaves, as they are at the end
  stages: tuple[Stage, ...]  # of at least one step each

  @property
  def steps(self) -> int:
    """Of the whole run."""
    return self.stages[-1].end

  @property
  def mixture_L(self) -> np.ndarray:
    """The leaves' shares of all training tokens."""
    return self.share_G @ np.stack([stage.mixture_L for stage in self.stages])

  @property
  def share_G(self) -> np.ndarray:
    """The stages' shares of all training tokens."""
    return np.array([stage.steps / self.steps for stage in self.stages])

  def bounds(self, steps: float) -> list[int]:
    """Where stages begin, and the last ends, in a training of so many steps."""
    ends = (stage.end / self.steps * steps for stage in self.stages)
    return [0, *(math.floor(end + 0.5) for end in ends)]

  def at(self, step: int) -> Stage:
    """The stage that a training step is in."""
    return next(stage for stage in self.stages if step < stage.end)

  def mixture(self, step: int) -> dict[str, float]:
    """Name -> share of the training tokens, at a step."""
    return dict(zip(self.names, self.at(step).mixture_L.tolist(), strict=True))


def make(
  begins: Sequence[int],
  leaves: Sequence[Partition],
  embedding_NE: np.ndarray,
  mass_N: np.ndarray,
  *,
  sources: Sequence[str] | None = None,
  steps: int,
) -> tuple[Stage, ...]:
  """Stages, with masses and mixtures as a sample of documents has them.

  Args:
    begins: the step at which each begins. Where several begin at one, the last counts.
    leaves: with their weights, of each.
    embedding_NE: features of the sample.
    mass_N: shares of its tokens.
    sources: labels, by which leaves that are sources go.
    steps: of the whole run.
  """
  found, last, p_NL = [], None, np.zeros(0)
  for begin, end, partition in zip(
    begins, [*begins[1:], steps], leaves, strict=True
  ):
    if end <= begin:
      continue
    if last is None or not _same_places(partition, last):
      p_NL = np.exp(partition.log_p_leaf(embedding_NE, sources))
    last, mass_L = partition, mass_N @ p_NL
    if isinstance(partition, TreePartition) and partition.scores:
      log_w_N = partitions.document_log_w(partition, embedding_NE, np.log(p_NL))
      mixture_L = (mass_N * np.exp(log_w_N)) @ p_NL
    else:
      mixture_L = mass_L * np.exp(np.asarray(partition.log_w_L, np.float64))
    found.append(
      Stage(begin, end, mass_L, mixture_L / mixture_L.sum(), partition)
    )
  return tuple(found)


def _same_places(a: Partition, b: Partition) -> bool:
  """Whether documents fall into the same leaves: two differ by weights alone."""
  if isinstance(a, TreePartition) or type(a) is not type(b):
    return False
  fields: Any = a
  return all(
    getattr(a, name) is getattr(b, name)
    for name in fields._fields
    if name != "log_w_L"
  )


def save(
  folder: Path,
  one: Schedule,
  *,
  made: Mapping[str, Any] | None = None,
  beside: Sequence[Path] = (),
) -> list[Path]:
  """Writes schedule.json and schedule.parquet; returns the files.

  Args:
    folder: of the files.
    one: the schedule.
    made: what it was made from, where it is handed over.
    beside: what it reads documents with, there.
  """
  places: dict[str, dict[str, Any]] = {}  # leaves less their weights, once each
  stages = []
  for stage in one.stages:
    leaves = stage.partition.to_json()
    log_w = leaves.pop("log_w_leaf")
    key = store.key_of(leaves)
    places.setdefault(key, leaves)
    stages.append(
      {
        "begin": stage.begin,
        "end": stage.end,
        "mass": stage.mass_L.tolist(),
        "mixture": stage.mixture_L.tolist(),
        "leaves": key,
        "log_w_leaf": log_w,
      }
    )
  told = {
    "format": FORMAT,
    "method": one.method,
    "seed": one.seed,
    "step_tokens": one.step_tokens,
    "names": one.names,
    "leaves": places,
    "stages": stages,
    **({"made": dict(made)} if made else {}),
  }
  folder.mkdir(parents=True, exist_ok=True)
  store.write_parquet(folder / TABLE_FILE, _table(one))
  sealed.write(folder / FILE, told, beside=beside)
  return [folder / FILE, folder / TABLE_FILE]


def hand_over(
  folder: Path, one: Schedule, made: Mapping[str, Any], *, learned: Path
) -> list[Path]:
  """Writes a schedule and what it reads documents with; returns the files.

  Args:
    folder: of the job.
    one: the schedule.
    made: what it was made from, as a recipe tells it: config and budget among it.
    learned: folder of the prepared corpus, which has tokenizer and embedder.
  """
  files = recipes.save_readers(folder, learned=learned)
  return [*files, *save(folder, one, made=made, beside=files)]


def _table(one: Schedule):
  """A row for every stage and leaf; not for leaves that a tree had only room for."""
  import pyarrow as pa

  used_L = np.any([stage.mass_L > 0 for stage in one.stages], axis=0)
  rows = [
    {
      "stage": number,
      "begin": stage.begin,
      "end": stage.end,
      "leaf": name,
      "mass": mass,
      "mixture": share,
      "weight": share / mass if mass > 0 else 0.0,
    }
    for number, stage in enumerate(one.stages)
    for name, mass, share, used in zip(
      one.names,
      stage.mass_L.tolist(),
      stage.mixture_L.tolist(),
      used_L,
      strict=True,
    )
    if used
  ]
  return pa.Table.from_pylist(rows)


def is_in(folder: Path | str) -> bool:
  """Whether a folder holds a schedule."""
  return (mirror.reading(folder) / FILE).is_file()


def made_from(folder: Path | str) -> dict[str, Any]:
  """What a schedule that was handed over was made from.

  Raises:
    UserError: it was not handed over.
  """
  made = _read(folder).get("made")
  if made is None:
    raise UserError(
      f"The schedule in {folder} is that of a single run, without what new documents "
      "are read with. Give the workdir of its job."
    )
  return made


def load(folder: Path | str) -> Schedule:
  """The schedule in a folder.

  Raises:
    UserError: there is none, or it is of another format.
  """
  told = _read(folder)
  return Schedule(
    told["method"],
    told["seed"],
    told["step_tokens"],
    tuple(told["names"]),
    tuple(
      Stage(
        stage["begin"],
        stage["end"],
        np.array(stage["mass"]),
        np.array(stage["mixture"]),
        partitions.partition_from_json(
          {**told["leaves"][stage["leaves"]], "log_w_leaf": stage["log_w_leaf"]}
        ),
      )
      for stage in told["stages"]
    ),
  )


def _read(folder: Path | str) -> dict[str, Any]:
  """The file of JSON in a folder.

  Raises:
    UserError: there is none, or it is of another format.
  """
  file = mirror.reading(folder) / FILE
  if not file.is_file():
    raise UserError(
      f"No {FILE} in {folder}. Give the folder of a run that moved its weights "
      "(config.online.on) and has ended."
    )
  told = sealed.read(file, cure=_CURE)
  if told.get("format") != FORMAT:
    raise UserError(
      f"{file}: wanted format {FORMAT}, came {told.get('format')}. Make it again "
      "with the same config in a new workdir."
    )
  sealed.require(file, told, cure=_CURE)
  return told


_CURE = "Copy the schedule again, or run the job that made it again."
