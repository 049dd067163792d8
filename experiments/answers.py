"""Which size and budget leave chance: answers by model size and training tokens.

  python -m experiments.answers --config answers:cpu,FOLDER --workdir runs/answers

Every size of the config (`final.preset` and `compare.final_presets`) is trained at every
share of its tokens (`compare.fractions`), each with a decay of its own. Intervals are
over questions: they are drawn again, the trainings are not, and a question counts with
its mean over seeds. A model leaves chance on a task where its accuracy is above that of
the best rule that reads no question (`evaluate.answers.unread`), paired over questions,
beyond the interval: right choices are not even over places and lengths, and models that
know nothing have a taste in both. The rule is the best on the test questions themselves,
so a small set sets a high bar.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.evaluate import answers, bootstrap
from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.evaluate.statistics import Interval
from cmtree_jax.jobs import cells
from cmtree_jax.jobs.command import command
from cmtree_jax.types import UserError
from experiments import claims
from experiments.claims import Results

ENOUGH = 3  # tasks that a model should leave chance on
_NATS = float(np.log(2))  # of a bit


class Task(NamedTuple):
  """A target whose test split has questions."""

  name: str
  asked: answers.AnswerSet

  @property
  def has_choices(self) -> bool:
    """Whether its questions have several."""
    return bool((self.asked.count_Q > 1).all())

  @property
  def chance(self) -> float:
    """The accuracy of guessing."""
    return float(np.mean(1 / self.asked.count_Q))

  def rule(self) -> tuple[str, np.ndarray]:
    """The best rule that reads no question, and what it wins [Q]."""
    rules = answers.unread(self.asked)
    best = max(rules, key=lambda name: rules[name].mean())
    return best, rules[best]


class Model(NamedTuple):
  """The trainings of one method at one size and budget, over their seeds."""

  method: str
  size: str
  tokens: int
  flops: float
  nats: Mapping[str, np.ndarray]  # task -> of each question's right choice [Q]
  won: Mapping[str, np.ndarray]  # task -> [Q]; none of open answers

  def bpb(self, task: Task) -> Interval:
    """Bits per byte of the right answers."""
    return bootstrap.ratio(self.nats[task.name] / _NATS, task.asked.bytes_Q)

  def accuracy(self, task: Task) -> Interval:
    """The share of questions that it answers."""
    return bootstrap.ratio(self.won[task.name])

  def leaves_chance(self, task: Task) -> bool:
    """Whether it is above what reads no question, beyond the interval."""
    _, blind_Q = task.rule()
    return bootstrap.ratio(self.won[task.name] - blind_Q).low > 0


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.answers",
    "Answers by size and tokens: which model leaves chance?",
    run,
    arguments,
  )


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Compares at every size, each in a folder of its own, then shows."""
  from cmtree_jax.report import tables

  _check(claims.plain(config), workdir)
  parts: dict[str, Results] = {}
  for size in dict.fromkeys(
    (config.final.preset, *config.compare.final_presets)
  ):
    status, parts[size] = claims.compared(
      _at_size(config, size),
      workdir / size,
      "comparison",
      (),
      overwrite=overwrite,
    )
    if status:
      return status
  tables.show_files(list(show(parts, workdir / "answers")))
  return 0


def _check(config: Any, workdir: Path) -> None:
  """Refuses targets without questions, and those that two recipes would answer."""
  from cmtree_jax.jobs import plan

  sets = plan.of_comparison(config).target_sets.values()
  places = [one for of_set in sets for one in of_set]
  named = Counter(one.name for one in places)
  twice = [name for name, count in named.items() if count > 1]
  if twice:
    raise UserError(
      f"config.compare.targets tests {', '.join(twice)} in more than one set; a table "
      "of answers has one recipe of each method for a task."
    )
  data = claims.prepared(config, workdir)
  tested = [one.tested for one in places]
  if all(data.targets[name]["test"].questions is None for name in tested):
    raise UserError(
      f"None of {', '.join(tested)} has questions; name targets that have in "
      "config.compare.targets (docs/formats.md)."
    )


def _at_size(config: Any, size: str) -> Any:
  own = claims.plain(config)
  own.final.preset = size
  own.compare.fractions = config.compare.fractions
  own.compare.noise_repeats = 0
  return own.lock()


def show(parts: Mapping[str, Results], folder: Path) -> Iterator[Path]:
  """Tables of tasks, accuracy and bits per byte, and figures of both.

  Args:
    parts: by size; all of one corpus.
    folder: gets the files.
  """
  asked = tasks(next(iter(parts.values())))
  found = [
    one for size, part in parts.items() for one in models(size, part, asked)
  ]
  chosen = [one for one in asked if one.has_choices]
  yield claims.write_table(
    folder / "tasks.md",
    "Tasks, their test questions and what reads none of them",
    [
      *("task", "questions", "prompts cut", "choices continued"),
      *("chance", "best rule without reading", "its accuracy"),
    ],
    map(_task_row, asked),
  )
  columns = ["method", "size", "tokens"]
  names = [one.name for one in chosen]
  if chosen:
    yield claims.write_table(
      folder / "accuracy.md",
      "Accuracy, its 95 % interval over questions; *: left chance",
      [*columns, *names, "leaves chance on"],
      (_accuracy_row(one, chosen) for one in found),
    )
    yield _verdict(found, chosen, folder / "verdict.md")
  yield claims.write_table(
    folder / "bpb.md",
    "Bits per byte of right answers, their 95 % interval over questions",
    [*columns, *(one.name for one in asked)],
    ([*_place(one), *(_text(one.bpb(t)) for t in asked)] for one in found),
  )
  if any(one.method != NATURAL for one in found):
    yield _differences(found, asked, folder / "differences.md")
  yield from _figures(found, asked, folder)


def tasks(found: Results) -> list[Task]:
  """The targets with questions, as the comparison asked them."""
  from cmtree_jax.evaluate import sets
  from cmtree_jax.jobs import build, plan

  data, config = found.data(), found.config
  settings = build.set_plan(config, max_tokens=config.evaluate.max_tokens)
  made = []
  for place in plan.of_comparison(config).places:
    documents = data.targets[place.tested]["test"]
    (one,) = sets.scored({place.name: documents}, settings, print)
    if isinstance(one, answers.AnswerSet):
      made.append(Task(place.name, one))
  return made


def models(size: str, found: Results, asked: Sequence[Task]) -> Iterator[Model]:
  """What was trained at one size, by method and budget."""
  from cmtree_jax.jobs import plan

  wanted = plan.of_comparison(found.config)
  names = {task.name for task in asked}
  groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
  for row in found.rows:
    if row["split"] == "test" and row["target"] in names:
      groups.setdefault((row["method"], row["fraction"]), []).append(row)
  for (method, _), rows in groups.items():
    kept: dict[str, dict[str, list[np.ndarray]]] = {"nats": {}, "won": {}}
    for row in rows:
      for kind, values in _of_questions(row, wanted, found.cells).items():
        of_task = kept[kind].setdefault(row["target"], [])
        of_task.append(np.asarray(values))
    nats, won = (
      {task: np.mean(some, axis=0) for task, some in kept[kind].items()}
      for kind in ("nats", "won")
    )
    tokens, flops = rows[0]["tokens"], rows[0]["final_flops"]
    yield Model(method, size, tokens, flops, nats, won)


def _of_questions(
  row: Mapping[str, Any], plan: cells.Plan, folder: cells.Folder
) -> dict[str, list[float]]:
  """What the training of a row made of the questions of its target."""
  cell = cells.Final(
    plan.search(row["method"], row["target_set"], row["seed"]),
    row["seed"],
    row["fraction"],
    version=cells.Version(row["candidate"], row["kept_share"]),
  )
  facts = folder.scored(cell, [row["target"]])
  assert facts is not None, cell
  return facts[cells.QUESTIONS][row["target"]][row["split"]]


def _task_row(task: Task) -> list[str]:
  asked = task.asked
  counts = (asked.num_questions, asked.num_cut, asked.num_continued)
  if not task.has_choices:
    return [task.name, *map(str, counts), "", "", ""]
  rule, won_Q = task.rule()
  return [
    *(task.name, *map(str, counts)),
    *(f"{task.chance:.3f}", rule, f"{won_Q.mean():.3f}"),
  ]


def _place(one: Model) -> list[str]:
  return [one.method, one.size, f"{one.tokens:,}"]


def _text(interval: Interval) -> str:
  return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _left(one: Model, chosen: Sequence[Task]) -> list[str]:
  return [task.name for task in chosen if one.leaves_chance(task)]


def _accuracy_row(one: Model, chosen: Sequence[Task]) -> list[str]:
  left = _left(one, chosen)
  return [
    *_place(one),
    *(_text(one.accuracy(task)) + "*" * (task.name in left) for task in chosen),
    f"{len(left)} of {len(chosen)}",
  ]


def _verdict(
  found: Sequence[Model], chosen: Sequence[Task], path: Path
) -> Path:
  """The smallest training of each method that leaves chance on enough tasks."""
  rows = []
  for method in dict.fromkeys(one.method for one in found):
    enough = [
      one
      for one in found
      if one.method == method and len(_left(one, chosen)) >= ENOUGH
    ]
    if not enough:
      rows.append([method, "none that was trained", "", ""])
      continue
    best = min(enough, key=lambda one: one.flops)
    rows.append([method, *_place(best)[1:], ", ".join(_left(best, chosen))])
  return claims.write_table(
    path,
    f"The least training that leaves chance on at least {ENOUGH} tasks",
    ["method", "size", "tokens", "tasks"],
    rows,
  )


def _differences(
  found: Sequence[Model], asked: Sequence[Task], path: Path
) -> Path:
  """Every method - natural, paired over questions."""
  natural = {
    (one.size, one.tokens): one for one in found if one.method == NATURAL
  }
  rows = []
  for one in found:
    other = natural[one.size, one.tokens]
    if one is other:
      continue
    for task in asked:
      name, size = task.name, task.asked.bytes_Q
      bpb = bootstrap.ratio((one.nats[name] - other.nats[name]) / _NATS, size)
      accuracy = ""
      if task.has_choices:
        won = bootstrap.ratio(one.won[name] - other.won[name])
        accuracy = f"{won.mean:+.3f} [{won.low:+.3f}, {won.high:+.3f}]"
      told = f"{bpb.mean:+.3f} [{bpb.low:+.3f}, {bpb.high:+.3f}]"
      rows.append([*_place(one), name, told, accuracy])
  return claims.write_table(
    path,
    "Differences to natural, paired over questions, with their 95 % interval",
    ["method", "size", "tokens", "task", "BPB of answers", "accuracy"],
    rows,
  )


def _figures(
  found: Sequence[Model], asked: Sequence[Task], folder: Path
) -> Iterator[Path]:
  """Of every method: both scores against tokens, a line for each size."""
  for method in dict.fromkeys(one.method for one in found):
    own = [one for one in found if one.method == method]
    chosen = [task for task in asked if task.has_choices]
    if chosen:
      yield _draw(
        own,
        chosen,
        Model.accuracy,
        "accuracy",
        folder / f"{method}.accuracy.svg",
      )
    yield _draw(
      own,
      asked,
      Model.bpb,
      "bits per byte of answers",
      folder / f"{method}.bpb.svg",
    )


def _draw(
  found: Sequence[Model],
  asked: Sequence[Task],
  score: Callable[[Model, Task], Interval],
  label: str,
  path: Path,
) -> Path:
  figure, axes = claims.panels(len(asked), zero=False)
  sizes = dict.fromkeys(one.size for one in found)
  for ax, task in zip(axes, asked, strict=True):
    for size, color in zip(sizes, claims.COLORS, strict=False):
      points = {
        one.tokens: score(one, task) for one in found if one.size == size
      }
      claims.line(ax, points, color=color, label=size)
    if score is Model.accuracy:
      ax.axhline(task.chance, color="black", linestyle="--", label="chance")
      best = float(task.rule()[1].mean())
      ax.axhline(best, color="black", linestyle=":", label="without reading")
    ax.set_xscale("log")
    ax.set_title(task.name, fontsize=10)
  axes[0].set_ylabel(label)
  figure.supxlabel("training tokens", fontsize=10)
  claims.legend(figure, axes)
  return claims.save(figure, path)


if __name__ == "__main__":
  sys.exit(main())
