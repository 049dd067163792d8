"""Every command of docs/questions.md, on a small corpus."""

import csv
import json
import os
import pathlib
import random
import re
import shlex
import subprocess
import sys

import pytest

from tests import corpora

PAGE = corpora.ROOT / "docs" / "questions.md"
SMALL = """
cmtree.branching=2,2 cmtree.start.angle_dim=4 cmtree.start.steps=20
values.population=4 values.rounds=1 values.max_age=8 values.min_age=4
values.steps_between_rounds=4 values.outer_rows=8 values.probe_rows=8
values.validation_rows=8 values.lookahead=4 values.sample_documents=64
trial.preset=0.1m final.preset=0.1m final.seeds=2 guard.rivals=,
""".split()


def _commands() -> list[str]:
  text = PAGE.read_text(encoding="utf-8")
  blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
  lines = "".join(blocks).replace("\\\n", " ").splitlines()
  return [line for line in lines if line]


def _write_runs(path: pathlib.Path) -> None:
  """Losses that fall with the share of sums, and a little by chance."""
  rng = random.Random(0)
  with path.open("w", newline="") as file:
    table = csv.writer(file)
    names = ("sums", "code", "latin")
    table.writerow([*(f"mixture.{name}" for name in names), "loss.exam"])
    for _ in range(24):
      drawn = [rng.expovariate(1) for _ in names]
      shares = [x / sum(drawn) for x in drawn]
      loss = 2 + 1.5 * 2.7 ** (-3 * shares[0]) + rng.gauss(0, 0.01)
      table.writerow([*shares, loss])


@pytest.mark.slow
def test_every_question_is_answered(tmp_path):
  corpora.write_job_corpus(tmp_path, {"exam": "sums"})
  rows = [{"id": f"new-{i}", "text": f"{i} + 1 = {i + 1};"} for i in range(30)]
  corpora.write(tmp_path / "new.jsonl", rows)
  _write_runs(tmp_path / "runs.csv")
  small = [f"cache_dir={tmp_path / 'cache'}", *corpora.TINY, *SMALL]
  told = {}
  for command in _commands():
    python, *words = shlex.split(command)
    assert python == ".venv/bin/python"
    if "--config" in words and "--dry-run" not in words:
      # After the page's own: the last word on a setting would be these.
      own = {word.partition("=")[0] for word in words}
      more = [f"--config.{one}" for one in small]
      words += [one for one in more if one.partition("=")[0] not in own]
    done = subprocess.run(
      [sys.executable, *words],
      cwd=tmp_path,
      env={**os.environ, "PYTHONPATH": str(corpora.ROOT)},
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    told[command] = done.stdout
  assert all(told.values()), [one for one, said in told.items() if not said]
  manifest = json.loads(
    (tmp_path / "runs/file/export/manifest.json").read_text()
  )
  assert set(manifest["weights_are"]) == {"jsonl", "parquet"}
  assert (tmp_path / "both.html").stat().st_size > 1e6
