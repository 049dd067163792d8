"""The experiment on views: planted values, planted losses, and one tiny run."""

import numpy as np
import pytest

from cmtree_jax.jobs.command import command
from experiments import views
from tests import corpora

RNG = np.random.default_rng(0)
M, P, R = 600, 8, 40
X_ME = RNG.normal(size=(M, 5))
# Half of what is expected of a document is in the view, the rest is its own.
SEEN_M = X_ME[:, 0]
TRUE_M = SEEN_M + RNG.normal(size=M)
VALUE_PM = TRUE_M + 2 * RNG.normal(size=(P, M))


def judged(x_ME, one_M, other_M):
  (found,) = views.r_squared(
    views.crossfitted(x_ME, one_M[None]), other_M[None]
  )
  return found


def test_a_view_is_judged_by_proxies_and_documents_that_it_was_not_fitted_to():
  one_M, other_M = VALUE_PM[::2].mean(0), VALUE_PM[1::2].mean(0)
  # Of variance 2 with noise of variance 4 / 4, so that R^2 is at most 2/3.
  assert views.ceiling(one_M, other_M) == pytest.approx(2 / 3, abs=0.06)
  assert judged(X_ME, one_M, other_M) == pytest.approx(1 / 3, abs=0.06)
  nothing = RNG.normal(size=(M, 200))
  assert abs(judged(nothing, one_M, other_M)) < 0.05
  # Values as their own view bring the noise of their half along: 2 * 2/3 - 1.
  own = judged(one_M[:, None], one_M, other_M)
  assert own == pytest.approx(1 / 3, abs=0.06)


def test_no_document_is_fitted_to_itself():
  value_M = RNG.normal(size=M)
  identity = np.eye(M)  # a view that names the document
  found = views.crossfitted(identity, value_M)
  assert abs(np.corrcoef(found, value_M)[0, 1]) < 0.3
  assert np.std(found) < 0.2


def test_the_score_is_one_where_losses_follow_the_values():
  half_RM = np.stack([RNG.permutation(M) < M // 2 for _ in range(R)])
  tokens_RM = half_RM * RNG.integers(1, 9, M)
  share_RM = tokens_RM / tokens_RM.sum(1, keepdims=True)
  loss_RT = np.stack([-share_RM @ TRUE_M, share_RM @ TRUE_M], axis=1)
  found = views.scores(np.stack([TRUE_M, TRUE_M]), tokens_RM, loss_RT)
  assert found == pytest.approx([1, -1])
  (part,) = views.scores(SEEN_M[None], tokens_RM, loss_RT[:, :1])
  assert 0.4 < part < 0.95


def test_the_table_has_a_row_for_every_view(tmp_path):
  half_RM = np.stack([RNG.permutation(M) < M // 2 for _ in range(R)])
  loss_RT = -(half_RM / half_RM.sum(1, keepdims=True)) @ TRUE_M[:, None]
  file = views.show(
    ["goal"],
    VALUE_PM[:, None],
    {"seen": [X_ME, -X_ME], "blind": [RNG.normal(size=(M, 2))]},
    (half_RM.astype(int), loss_RT),
    tmp_path / "views.md",
  )
  _, _, head, _, *rows = file.read_text().splitlines()
  assert head == "| view | numbers | goal | mean R^2 | LDS |"
  cells = [[x.strip() for x in row.split("|")[1:-1]] for row in rows]
  assert [row[:2] for row in cells] == [
    ["the values themselves", ""],
    ["seen", "5"],
    ["blind", "2"],
  ]
  most, seen, blind = ([float(x) for x in row[2:]] for row in cells)
  assert most[0] > seen[0] > 0.2 > abs(blind[0])
  assert most[2] > seen[2] > 0.3


@pytest.mark.slow
def test_a_stopped_command_goes_on(tmp_path):
  corpora.write_job_corpus(tmp_path, {"arithmetic": "sums"})
  settings = """
  data.targets= values.unroll=4 values.max_age=8 values.min_age=4
  values.outer_rows=8 embedding.dim=3 embedding.hidden_dim=2 look.steps=8
  look.steps_per_call=2 measure.proxies=2 measure.documents=60
  measure.trainings=4 measure.steps=4 measure.together=2
  """.split()
  arguments = corpora.arguments(
    "configs/views.py",
    *(tmp_path, tmp_path / "out", ["arithmetic"]),
    *corpora.TINY,
    *settings,
  )
  assert command("test", "A test.", views.run, arguments) == 0
  first = (tmp_path / "out" / "views.md").read_text()
  for name in (
    "topic",
    "topic 12",
    "form",
    "loss",
    "topic + form + grams + loss + trajectory + hidden",
    "hidden, refreshed",
    "topic + hidden, refreshed",
  ):
    assert f"| {name} |" in first
  made = {
    path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npy")
  }
  assert len(made) == 4
  (tmp_path / "out" / "losses.0002.npy").unlink()
  assert command("test", "A test.", views.run, arguments) == 0
  assert (tmp_path / "out" / "views.md").read_text() == first
  for path, when in made.items():
    kept = path.stat().st_mtime_ns == when
    assert kept == (path.name != "losses.0002.npy")
