"""What experiments refuse before any work, in one line."""

import pytest

from experiments import answers, beds, decision_accuracy


@pytest.mark.parametrize(
  ("main", "settings", "told"),
  [
    (answers.main, ["default"], "no block `compare`"),
    (
      answers.main,
      ["claims:toy", "--config.compare.targets=a,a+b"],
      "tests a in more than one set",
    ),
    (beds.main, ["claims:toy"], "no block `bed`"),
    (
      beds.main,
      ["beds.b:toy", "--config.compare.methods=mates"],
      "none of the rivals",
    ),
    (beds.main, ["beds.g:toy", "--config.bed.epochs=1.0,"], "two budgets"),
    (decision_accuracy.main, ["claims:toy"], "no block `decision`"),
    (
      decision_accuracy.main,
      ["decision_accuracy:toy", "--config.decision.recipes=2"],
      "recipes = 2 must be at least 3",
    ),
    (
      decision_accuracy.main,
      ["decision_accuracy:toy", "--config.decision.bases="],
      "bases is empty",
    ),
    (
      decision_accuracy.main,
      ["decision_accuracy:toy", "--config.decision.small=tiny"],
      "Unknown small 'tiny'",
    ),
  ],
)
def test_what_an_experiment_cannot_do_is_one_line(
  main, settings, told, tmp_path, capsys
):
  assert main(["--config", *settings, "--workdir", str(tmp_path / "w")]) != 0
  (line,) = capsys.readouterr().err.splitlines()
  assert told in line
