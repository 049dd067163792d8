"""Small corpora on disk, and jobs on them as a person would start them."""

import json
import os
import pathlib
import random
import subprocess
import sys
import time
from collections.abc import Iterable

import cmtree_jax
from cmtree_jax.config import load
from cmtree_jax.data.build import prepare, workers
from cmtree_jax.jobs import build, estimate
from cmtree_jax.jobs.command import config_arguments
from cmtree_jax.jobs.job import Job
from cmtree_jax.loops.checkpoint import StopFlag
from cmtree_jax.report import estimates
from cmtree_jax.report.progress import Reporter

ROOT = pathlib.Path(cmtree_jax.__file__).parents[1]
LOCAL = workers.Workers()
WORDS = {
  "sums": [f"{a} + {b} = {a + b};" for a in range(9) for b in range(9)],
  "code": ["def f(x):", "return x", "for i in y:", "if z:", "pass", "f(i)"],
  "latin": ["lorem", "ipsum", "dolor", "sit", "amet", "elit", "sed", "do"],
}
_SPLITS = ("train", "train", "validation", "test", "test")

# As small as a job can be with every stage still in it.
TINY = """
tokenizer.kind=bytes embedding.dim=8 embedding.max_features=500
partition.num_clusters=4 batch.rows=4 batch.row_tokens=16 data.max_overlap=1.0
values.unroll=4 final.steps=12 final.steps_per_call=4
trial.preset=0.3m trial.steps=12 trial.steps_per_call=4 trial.max_tokens=300
trial.exponents=0.5, guard.rivals=crisp_16
optimizer.warmup_steps=2
runs.steps=21 evaluate.max_tokens=300 evaluate.rows=8
mesh.data=1
""".split()


def write(path: pathlib.Path, rows: Iterable[dict]) -> None:
  """JSON lines."""
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def prepared(
  folder: pathlib.Path,
  rows: Iterable[dict],
  goal: Iterable[dict],
  *overrides: str,
) -> prepare.Prepared:
  """A pool and one target, written and prepared."""
  write(folder / "pool.jsonl", rows)
  write(folder / "goal.jsonl", goal)
  return prepare_folder(
    folder, f"data.source=jsonl:{folder}/pool.jsonl", *overrides
  )


def prepare_folder(
  folder: pathlib.Path,
  *overrides: str,
  cache: str = "cache",
  crew: workers.Workers = LOCAL,
) -> prepare.Prepared:
  """What `data.source` says, with the target goal.jsonl, tokenized as bytes."""
  config = load(
    "configs/smoke.py",
    [
      f"data.target_files={folder}/goal.jsonl",
      "data.targets=",
      "tokenizer.kind=bytes",
      "embedding.dim=4",
      *overrides,
    ],
  )
  return prepare.prepare(
    build.corpus_plan(config),
    cache_dir=folder / cache,
    workers=crew,
    progress=lambda line: None,
  )


def write_job_corpus(folder: pathlib.Path, targets: dict[str, str]) -> None:
  """pool.jsonl of three sources, and a file for each target, of one of them."""
  rng = random.Random(0)

  def text(source: str) -> str:
    return " ".join(rng.choices(WORDS[source], k=rng.randint(5, 25)))

  pool = [
    {"id": f"{source}-{i}", "text": text(source), "source": source}
    for source in WORDS
    for i in range(40)
  ]
  write(folder / "pool.jsonl", pool)
  for target, source in targets.items():
    rows = [{"text": text(source), "split": _SPLITS[i % 5]} for i in range(25)]
    write(folder / f"{target}.jsonl", rows)


def arguments(
  config: str,
  corpus: pathlib.Path,
  workdir: pathlib.Path,
  targets: Iterable[str],
  *overrides: str,
) -> list[str]:
  """Of the command line, for a job on the corpus of `write_job_corpus`."""
  files = ",".join(str(corpus / f"{name}.jsonl") for name in targets)
  settings = [
    f"cache_dir={corpus / 'cache'}",
    f"data.source=jsonl:{corpus / 'pool.jsonl'}",
    f"data.target_files={files}",
    *TINY,
    *overrides,
  ]
  return [
    f"--config={config}",
    f"--workdir={workdir}",
    *(f"--config.{setting}" for setting in settings),
  ]


def estimated(
  arguments: list[str], folder: pathlib.Path, *, compares: bool = False
) -> dict[str, list[estimates.Part]]:
  """What a job with these arguments would be told that it takes, by name."""
  overrides, (config, *_) = config_arguments(arguments)
  loaded = load(config.removeprefix("--config="), overrides)
  found: dict[str, list[estimates.Part]] = {}
  with Reporter(quiet=True) as reporter:
    job = Job(loaded, folder, reporter, StopFlag())
    data, plan = estimate.planned(job, compares=compares)
    learners = estimate.learners_of(job, data, plan)
    parts = estimate.of_plan(job, data, plan, learners, judged=not compares)
    for one in parts:
      found.setdefault(one.name, []).append(one)
  return found


def start(
  module: str, arguments: list[str], *path: pathlib.Path
) -> subprocess.Popen[bytes]:
  """A job of its own process; folders of `path` come first on Python's."""
  return subprocess.Popen(
    [sys.executable, "-m", module, *arguments],
    env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )


def wait_for(job: subprocess.Popen[bytes], path: pathlib.Path) -> None:
  """Until a file is there; the job must still be running."""
  deadline = time.monotonic() + 120
  while not path.exists():
    assert job.poll() is None, "the job ended early"
    assert time.monotonic() < deadline, f"{path} never came"
    time.sleep(0.01)


def assert_one_line(status, wanted, words, capsys) -> None:
  """The job ended with one line of error that has all the words."""
  told = capsys.readouterr().err.strip().splitlines()[-1]
  assert status == wanted, told
  assert told.startswith(("Error: ", "Fault: "))
  for word in words:
    assert word in told
  assert len(told) < 600
