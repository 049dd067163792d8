"""Every method that weighs documents on planted ones: does it do what its paper says?

What it must find stands beside it, as `PLANTED.documents` and `PLANTED.once`, or why
nothing can be asked of it.
"""

import functools
import json
import pathlib

import numpy as np
import pytest

from cmtree_jax import config as configs
from cmtree_jax.data.build import prepare
from cmtree_jax.jobs import build, search
from cmtree_jax.jobs.job import Job
from cmtree_jax.loops.checkpoint import StopFlag
from cmtree_jax.methods import METHODS
from cmtree_jax.methods.base import Planted
from cmtree_jax.report.progress import Reporter
from tests import corpora
from tests.methods import planted_documents
from tests.methods.planted_documents import COPIES, group_of

# Half an epoch, so that an eighth of the tokens is enough for the training.
_SETTINGS = """
tokenizer.kind=bpe embedding.dim=128 embedding.max_features=3000 data.targets=
partition.num_clusters=8 batch.rows=8 batch.row_tokens=32 data.max_overlap=1.0
proxy.preset=0.1m look.teacher=0.4m look.steps=96 look.steps_per_call=16
budget.epochs=0.5 optimizer.warmup_steps=5 mesh.data=1
""".split()
_MORE = 1.2  # times as much: more than numbers that differ by machine

DOCUMENTS = [
  name for name, one in METHODS.items() if one.make().weighs == "documents"
]
ASKED = [
  pytest.param(
    name, marks=[pytest.mark.slow] * (METHODS[name].make().loop != "none")
  )
  for name in DOCUMENTS
  if METHODS[name].PLANTED.documents or METHODS[name].PLANTED.once
]


class Corpus:
  """The planted corpus, prepared, and a job on it."""

  def __init__(self, folder: pathlib.Path):
    made = planted_documents.make()
    corpora.write(folder / "pool.jsonl", made.pool)
    corpora.write(folder / "goal.jsonl", made.goal)
    # Labels of quality: a text of the target is good, one of another topic is not.
    corpora.write(
      folder / "labels.jsonl",
      [
        {"text": row["text"], "score": float(row["source"] == "target")}
        for row in made.pool
        if row["source"] in ("target", "plain")
      ],
    )
    self.folder = folder
    self.data = prepare.prepare(
      build.corpus_plan(self.config()),
      cache_dir=folder / "cache",
      workers=corpora.LOCAL,
      progress=lambda line: None,
    )
    rows = np.arange(len(self.data.pool))
    self.id_N = self.data.documents.rows(rows, "id")["id"]
    self.source_N, self.sources = self.data.documents.labels("source")
    self.mass_N = self.data.pool.tokens.mass_N

  def config(self):
    return configs.load(
      "configs/smoke.py",
      [
        *_SETTINGS,
        f"data.source=jsonl:{self.folder}/pool.jsonl",
        f"data.target_files={self.folder}/goal.jsonl",
        f"cache_dir={self.folder}/cache",
      ],
    )

  def weights(self, name: str, folder: pathlib.Path) -> np.ndarray:
    """Of all documents, by a search as a job does it."""
    config = self.config()
    options = METHODS[name].PLANTED.options
    with config.unlocked():
      if options:
        config[name].update(options)
      if METHODS[name].make().labels is not None:
        config[name].labels = str(self.folder / "labels.jsonl")
    with Reporter() as reporter:
      job = Job(config, folder, reporter, StopFlag())
      parts = search.partitions([name], job, self.data)
      found = search.weigh(name, job, self.data, parts, seed=0, stage="search")
    return np.exp(found.log_w_N)

  def weight(self, group: str, w_N: np.ndarray) -> float:
    """Mean per token; of all documents for "natural", of all copies for "copies"."""
    names = {"natural": self.sources, "copies": ("exact", "near")}
    wanted = names.get(group, (group,))
    assert set(wanted) <= set(self.sources), group
    inside_N = np.isin(
      self.source_N, [self.sources.index(one) for one in wanted]
    )
    return float(np.average(w_N[inside_N], weights=self.mass_N[inside_N]))

  def kept_copies(self, group: str, w_N: np.ndarray) -> np.ndarray:
    """How many copies of each document are kept."""
    count: dict[str, int] = {}
    for name, w in zip(self.id_N, w_N, strict=True):
      if name.startswith(f"{group}-"):
        key = group_of(name)
        count[key] = count.get(key, 0) + (w > 0.9)
    return np.array(list(count.values()))


def missed(corpus: Corpus, planted: Planted, w_N: np.ndarray) -> list[str]:
  """What should have been found and was not."""
  weight = functools.partial(corpus.weight, w_N=w_N)
  lines = [
    f"{more} {weight(more):.3f}, {less} {weight(less):.3f}"
    for more, less in planted.documents
    if not weight(more) > _MORE * weight(less)
  ]
  for group in planted.once:
    kept = corpus.kept_copies(group, w_N)
    # Two words less may be a tenth of a short text.
    if kept.max() > 2 or kept.mean() > 1.3 or not kept.any():
      lines.append(f"kept of {group}: {kept}")
  return lines


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
  return Corpus(tmp_path_factory.mktemp("planted"))


@pytest.mark.parametrize("name", ASKED)
def test_a_method_finds_the_documents_that_its_paper_says(
  corpus, tmp_path, name
):
  w_N = corpus.weights(name, tmp_path)
  assert corpus.mass_N @ w_N == pytest.approx(1, rel=1e-4)
  assert missed(corpus, METHODS[name].PLANTED, w_N) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_method_of_documents_says_what_it_finds_or_why_not(name):
  planted = METHODS[name].PLANTED
  asked = bool(planted.documents or planted.once)
  assert asked != bool(planted.cannot)


def test_natural_and_random_weights_find_nothing(corpus):
  ones_N = np.ones(len(corpus.id_N))
  planted = Planted(
    documents=(("target", "plain"), ("plain", "random")), once=("exact",)
  )
  assert len(missed(corpus, planted, ones_N)) == 3
  assert (corpus.kept_copies("near", ones_N) == COPIES).all()
  assert (corpus.kept_copies("near", 0 * ones_N) == 0).all()
  assert len(missed(corpus, planted, 1e-6 * ones_N)) == 3


def test_the_corpus_is_as_it_says(corpus):
  made = planted_documents.make()
  assert json.dumps(made) == json.dumps(planted_documents.make())
  text = {row["id"]: row["text"] for row in made.pool}
  exact = {text[f"exact-3-{copy}"] for copy in range(COPIES)}
  near = [text[f"near-3-{copy}"].split() for copy in range(COPIES)]
  assert len(exact) == 1 and len({len(one) for one in near[1:]}) == 1
  assert len(near[0]) == len(near[1]) + 2 and len(set(map(tuple, near))) == 4
  words = {
    name: {
      w
      for row in made.pool
      if row["source"] == name
      for w in row["text"].split()
    }
    for name in corpus.sources
  }
  goal = {w for row in made.goal for w in row["text"].split()}
  assert goal & words["target"] and not goal & words["rare"]
  # Spoiled texts of the plain topics, with their words, and with no topic's.
  assert len(words["shuffled"] & words["plain"]) > 0.9 * len(words["shuffled"])
  assert len(words["random"] & words["plain"]) < 0.1 * len(words["random"])
