"""What was asked for and what was decided: three sentences, and the numbers of it."""

from collections.abc import Iterator, Sequence

from cmtree_jax.budget import in_epochs
from cmtree_jax.evaluate.results import MEAN, NATURAL
from cmtree_jax.report import tables
from cmtree_jax.report.html import page
from cmtree_jax.report.html.results import Results


def title(found: Results) -> str:
  """Of the page."""
  if found.is_schedule:
    return f"{found.method}: a training that moved its own weights"
  if found.handed:
    return f"{found.handed}: a recipe for {_goals(found)}"
  if found.standings:
    methods = len({one.method for one in found.standings})
    return f"A comparison of {methods} methods"
  return f"A recipe on another corpus: {found.name}"


def sentences(found: Results) -> Iterator[str]:
  """What was asked for, what was decided and why, and what it is worth."""
  yield _asked(found)
  if found.handed or found.is_schedule:
    yield _decided(found)
    if found.main is not None:
      yield tables.advice(found.main)
  else:
    means = [
      block
      for block in tables.blocks(found.standings)
      if block[0].target in (MEAN, block[0].target_set)
    ]
    for block in means[:_SETS]:
      yield f"{tables.place(block[0])}: {tables.verdict(block)}"


_SETS = 2  # sets of targets whose verdict is told above the table


def _asked(found: Results) -> str:
  documents = found.documents.all if found.documents else None
  corpus = "a corpus"
  if documents:
    tokens = tables.short(documents.tokens)
    corpus = f"{documents.documents:,} documents of {tokens} tokens"
  if found.budget:
    what = (
      f"Asked was {found.method} for a recipe of {corpus} for {_goals(found)}"
    )
    if found.is_schedule:
      what = (
        f"Asked was {found.method} to move the weights of {corpus} for "
        f"{_goals(found)} while the final model trains on them"
      )
    return f"{what}. {found.budget.text()}"
  if found.standings:
    one = found.standings[0]
    methods = list(dict.fromkeys(x.method for x in found.standings))
    return (
      f"Asked was which of {len(methods)} methods makes the best mixture for "
      f"{_goals(found)}: {one.seeds} final training{'s' * (one.seeds > 1)} of each, of "
      f"{one.tokens:,} tokens, scored on the test split.{_budget(found)}"
    )
  return (
    f"Asked was an earlier recipe on {corpus}, under the budget of this job."
  )


def _budget(found: Results) -> str:
  """As the settings have it, where no recipe tells of the corpus."""
  plan = found.settings.get("budget", {})
  if "max_epochs" not in plan:
    return ""
  length = in_epochs(plan.get("epochs", 1)) + " of the pool"
  if plan.get("tokens"):
    length = f"{plan['tokens']:,} tokens"
  return (
    f" The budget is {length}, and no document more than {plan['max_epochs']:g} "
    "times."
  )


def _goals(found: Results) -> str:
  names = found.recipe.get("targets")
  if names is None:
    names = list(dict.fromkeys(one.target_set for one in found.standings))
  if not names:
    return "no target"
  if len(names) > _NAMES:
    return f"{len(names)} targets"
  return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


_NAMES = 5  # targets that a heading names


def _decided(found: Results) -> str:
  if found.is_schedule:
    stages = max(
      (rows[-1]["stage"] + 1 for rows in found.schedules.values()), default=0
    )
    return (
      "Nothing was tried or judged beforehand: handed over are the model and the "
      f"schedule that it was trained on, in up to {stages} stages."
    )
  guard = found.recipe.get("guard")
  why = guard["why"] if guard else found.summary.get("why", "")
  return f"Handed over is {found.handed}. {why}"


def cards(found: Results) -> str:
  """Numbers that matter most."""
  one, facts = found.main, []
  if one is not None and (found.handed or found.is_schedule):
    facts.append(("handed over", found.handed or found.method))
    if one.method != NATURAL:
      told = tables.difference(one.to_natural)
      where = "mean of targets" if one.target == MEAN else one.target
      facts.append((f"bits per byte − natural, {where}", told))
      facts.append(("verdict on the test split", one.verdict))
    facts.append(
      ("effective share of the corpus", f"{one.effective_sample_size:.0%}")
    )
    facts.append(
      (
        "FLOPs of search and trials, in final trainings",
        f"{one.search_share:.3g}",
      )
    )
  elif found.handed:
    facts.append(("handed over", found.handed))
  elif found.standings:
    places = {
      (x.target_set, x.target) for x in found.standings if x.target != MEAN
    }
    facts += [
      ("methods", str(len({x.method for x in found.standings}))),
      ("targets", str(len(places))),
      ("final trainings of each", str(found.standings[0].seeds)),
      ("noise floor", f"{found.standings[0].noise_floor:.4f}"),
    ]
  if found.documents:
    facts.append(("documents", f"{found.documents.all.documents:,}"))
    facts.append(
      ("most looks at one document", f"{found.documents.at_most:.3g}")
    )
  if "wall_seconds" in found.summary:
    facts.append(
      (
        "time since the job was last started or resumed",
        _time(found.summary["wall_seconds"]),
      )
    )
  return page.cards(facts)


def glance(several: Sequence[Results]) -> str:
  """A row for every job: what it handed over, and what that is worth."""
  rows = []
  for found in several:
    one = found.main
    worth = ["", "", "", "", ""]
    if one is not None and (found.handed or found.is_schedule):
      worth = [
        tables.place(one),
        f"{one.bpb:.4f}",
        "" if one.method == NATURAL else tables.difference(one.to_natural),
        one.verdict,
        f"{one.effective_sample_size:.0%}",
      ]
    epochs = f"{found.budget.epochs:.3g}" if found.budget else ""
    rows.append([found.name, found.handed or found.method, epochs, *worth])
  columns = (
    *("job", "handed over", "epochs", "target"),
    *("BPB", "− natural", "verdict", "share of the corpus"),
  )
  inside = page.table(columns, rows, caption="At a glance")
  return inside.replace("<table>", '<table class="jobs">', 1)


def _time(seconds: float) -> str:
  if seconds < 90:
    return f"{seconds:.0f} s"
  minutes = round(seconds / 60)
  return f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"
