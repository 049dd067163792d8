"""Frozen partitions: every kind places every document."""

import json
import shutil

import numpy as np
import pytest

from cmtree_jax import budget
from cmtree_jax.data.build import prepare
from cmtree_jax.embed import kmeans
from cmtree_jax.recipe import domains, recipe
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.types import UserError
from tests import corpora

_WORDS = {
  "sums": "1 + 2 = 3; 4 + 5 = 9; 6 - 2 = 4;",
  "latin": "lorem ipsum dolor sit amet elit sed",
  "code": "def f(x): return x for i in y if z",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> prepare.Prepared:
  folder = tmp_path_factory.mktemp("corpus")
  rng = np.random.default_rng(0)

  def text(source):
    return " ".join(rng.permutation(_WORDS[source].split()))

  rows = [
    {"id": f"{source}{i}", "text": text(source), "source": source}
    for i in range(15)
    for source in _WORDS
  ]
  goal = [
    {"text": f"{text('sums')} {i}", "split": split}
    for split in ("train", "valid", "test")
    for i in range(4)
  ]
  return corpora.prepared(folder, rows, goal, "data.shard_documents=20")


def make(kind, data):
  plan = domains.Plan(
    kind,
    num_clusters=3,
    fine_clusters=9,
    candidates=(2, 3, 6),
    codes=3,
    prefix=1,
  )
  every = np.arange(len(data.pool))
  return domains.make(plan, data, every, seed=0)


@pytest.mark.parametrize(
  "kind", ["kmeans", "ward", "silhouette", "gem", "hermes", "sources"]
)
def test_every_kind_finds_the_three_sources(data, kind):
  found = make(kind, data)
  source_N, names = data.documents.labels("source")
  assert names == ("code", "latin", "sums")
  # One domain per source and the other way round, whatever their order.
  pairs = set(zip(found.domain_N.tolist(), source_N.tolist(), strict=True))
  assert len(pairs) == len(found.mass_K) == 3
  mass_K = np.bincount(found.domain_N, data.pool.tokens.mass_N)
  np.testing.assert_allclose(found.mass_K, mass_K)
  np.testing.assert_allclose(found.mass_K.sum(), 1.0)
  # The target is made of sums.
  share_K = found.shares(data.targets["goal"]["train"])
  assert share_K[found.domain_N[source_N == 2][0]] == pytest.approx(1.0)


def test_a_label_counts_more_than_the_nearest_center(data):
  partition = make("sources", data).partition
  embedding_NE = np.asarray(data.pool.embedding_NE[:3])  # sums, latin, code
  near = partition.log_p_leaf(embedding_NE).argmax(axis=1)
  assert near.tolist() == [2, 1, 0]
  told = partition.log_p_leaf(embedding_NE, ["latin", "unheard of", "latin"])
  assert told.argmax(axis=1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", ["ward", "gem", "hermes"])
def test_a_partition_survives_its_file(data, kind):
  partition = make(kind, data).partition.with_weights(np.arange(3.0))
  read = partitions.partition_from_json(
    json.loads(json.dumps(partition.to_json()))
  )
  embedding_NE = np.asarray(data.pool.embedding_NE)
  np.testing.assert_array_equal(
    read.log_p_leaf(embedding_NE), partition.log_p_leaf(embedding_NE)
  )
  np.testing.assert_array_equal(read.log_w_L, partition.log_w_L)


def _of_views(data, *views):
  every = np.arange(len(data.pool))
  number = 3 ** len(views)
  plan = domains.Plan("product", num_clusters=number, views=views)
  plan.check()
  return domains.make(plan, data, every, seed=0)


def test_a_product_crosses_the_clusters_of_its_views(tmp_path):
  """Written alike, whatever it is about: three forms in each of three topics."""
  rng = np.random.default_rng(0)
  forms = {
    "plain": lambda words: " ".join(words),
    "upper": lambda words: " ".join(words).upper(),
    "lines": lambda words: "\n\n\n\n".join(words),
  }
  rows = [
    {
      "id": f"{source}-{form}-{i}",
      "text": write(rng.permutation(words.split())),
      "source": source,
    }
    for source, words in _WORDS.items()
    for form, write in forms.items()
    for i in range(8)
  ]
  goal = [
    {"text": " ".join(rng.permutation(words.split())), "split": split}
    for split in ("train", "valid", "test")
    for words in _WORDS.values()
  ]
  data = corpora.prepared(tmp_path, rows, goal, "embedding.views=topic,form")
  topic, form = (_of_views(data, one) for one in ("topic", "form"))
  both = _of_views(data, "topic", "form")
  np.testing.assert_array_equal(
    both.domain_N, 3 * topic.domain_N + form.domain_N
  )
  np.testing.assert_allclose(
    both.mass_K, np.bincount(both.domain_N, data.pool.tokens.mass_N, 9)
  )
  # Each is that of its own columns alone.
  (columns,) = (slice(b.start, b.stop) for b in data.blocks if b.name == "form")
  form_NE = np.asarray(data.pool.embedding_NE)[:, columns]
  fitted = kmeans.fit(
    form_NE, num_clusters=3, seed=0, mass_N=data.pool.tokens.mass_N
  )
  np.testing.assert_array_equal(
    form.domain_N, kmeans.assign(form_NE, fitted.center_LE)
  )
  assert len(np.unique(topic.domain_N)) == len(np.unique(form.domain_N)) == 3
  assert len({*zip(topic.domain_N, form.domain_N, strict=True)}) > 3
  told = json.loads(json.dumps(both.partition.to_json()))
  np.testing.assert_array_equal(
    partitions.partition_from_json(told).log_p_leaf(data.pool.embedding_NE),
    both.partition.log_p_leaf(data.pool.embedding_NE),
  )


def test_a_product_of_views_that_are_not_there_is_told(data):
  with pytest.raises(
    UserError, match="views names form; the embedding has top"
  ):
    _of_views(data, "topic", "form")


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    (dict(num_clusters=60), "60 are no product.*topic, form; try 64"),
    (dict(views=()), "views = none"),
    (dict(views=("topic", "topic")), "each once"),
    (dict(views=("topic", "shape")), "Unknown views 'shape'"),
  ],
)
def test_a_product_that_cannot_be_is_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    domains.Plan("product", **fields).check()


def test_longer_prefixes_divide_the_cells_of_shorter_ones(data):
  plan = domains.Plan("hermes", codes=3, prefix=1)
  every = np.arange(len(data.pool))
  one, two = (
    domains.make(plan._replace(prefix=n), data, every, seed=0) for n in (1, 2)
  )
  assert two.partition.branching == (3, 3)
  np.testing.assert_array_equal(two.domain_N // 3, one.domain_N)
  np.testing.assert_allclose(two.mass_K.reshape(3, 3).sum(axis=1), one.mass_K)
  assert len(np.unique(two.domain_N)) > 3


def write_recipe(folder, partition, data):
  written = {
    "format": recipe.FORMAT,
    "budget": dict.fromkeys(budget.Budget._fields, 1),
    "partition": partition.to_json(),
    "config": {"cache_dir": str(folder)},
  }
  recipe.save(folder, written, learned=data.folder)


def test_labelled_domains_find_their_weights_in_an_earlier_recipe(
  data, tmp_path
):
  sources = make("sources", data)  # code, latin, sums
  assert isinstance(sources.partition, partitions.ClusterPartition)
  earlier = sources.partition._replace(sources=("sums", "maths", "code"))
  earlier = earlier.with_weights(np.array([0.5, 1.0, 2.0]))
  write_recipe(tmp_path, earlier, data)
  np.testing.assert_array_equal(
    domains.earlier_log_w(tmp_path, sources), [2.0, np.nan, 0.5]
  )
  with pytest.raises(
    UserError, match="None of the domains here .without label"
  ):
    domains.earlier_log_w(tmp_path, make("kmeans", data))
  write_recipe(tmp_path, earlier._replace(sources=("x", "y", "z")), data)
  with pytest.raises(UserError, match="None of the domains here .code, latin"):
    domains.earlier_log_w(tmp_path, sources)
  write_recipe(tmp_path, make("kmeans", data).partition, data)
  with pytest.raises(UserError, match="weighs no labelled sources"):
    domains.earlier_log_w(tmp_path, sources)


def test_leaves_find_their_weights_in_their_recipe(data, tmp_path):
  clusters = make("kmeans", data)
  log_w_L = np.array([0.5, 1.0, 2.0])
  write_recipe(tmp_path, clusters.partition.with_weights(log_w_L), data)
  for kind in (f"tree:{tmp_path}", "kmeans"):  # of the same centers
    found = domains.earlier_log_w(tmp_path, make(kind, data))
    np.testing.assert_array_equal(found, log_w_L)
  with pytest.raises(UserError, match="weighs no labelled sources"):
    domains.earlier_log_w(tmp_path, make("ward", data))


def test_an_earlier_recipe_is_of_labels_or_of_the_leaves_that_are_given(
  data, tmp_path
):
  clusters, sources = make("kmeans", data), make("sources", data)
  write_recipe(tmp_path, clusters.partition, data)
  domains.check_earlier(tmp_path, domains.Plan(f"tree:{tmp_path}/."))
  with pytest.raises(UserError, match="weighs no labelled sources"):
    domains.check_earlier(tmp_path, domains.Plan("kmeans"))
  write_recipe(tmp_path, sources.partition, data)
  domains.check_earlier(tmp_path, domains.Plan("sources"))
  with pytest.raises(UserError, match="No recipe.json in "):
    domains.check_earlier(tmp_path / "no", domains.Plan(f"tree:{tmp_path}/no"))


def test_leaves_of_a_recipe_become_domains(data, tmp_path):
  partition = make("kmeans", data).partition
  write_recipe(
    tmp_path, partition.with_weights(np.array([0.5, 1.0, 2.0])), data
  )
  embedder = (tmp_path / prepare.EMBEDDER_FILE).read_bytes()
  found = make(f"tree:{tmp_path}", data)
  np.testing.assert_array_equal(found.domain_N, make("kmeans", data).domain_N)
  np.testing.assert_array_equal(found.partition.log_w_L, 0.0)
  other = data.folder.with_name("other")
  shutil.copytree(data.folder, other)
  (other / prepare.EMBEDDER_FILE).write_bytes(embedder + b"?")
  write_recipe(tmp_path, partition, data._replace(folder=other))
  with pytest.raises(UserError, match="another embedding"):
    make(f"tree:{tmp_path}", data)


def test_sources_need_labels(data, tmp_path):
  rows = [{"id": f"{i}", "text": f"some text {i}"} for i in range(9)]
  goal = [{"text": f"goal {s}", "split": s} for s in ("train", "valid", "test")]
  bare = corpora.prepared(tmp_path, rows, goal)
  with pytest.raises(UserError, match="at least 2 labelled sources, came none"):
    make("sources", bare)


def test_documents_without_a_label_are_in_the_nearest_source(tmp_path):
  rng = np.random.default_rng(0)
  rows = [
    {
      "id": f"{source}{i}",
      "text": " ".join(rng.permutation(_WORDS[source].split())),
      "source": source if i else "",
    }
    for i in range(15)
    for source in _WORDS
  ]
  goal = [{"text": f"goal {s}", "split": s} for s in ("train", "valid", "test")]
  found = make("sources", corpora.prepared(tmp_path, rows, goal))
  assert isinstance(found.partition, partitions.ClusterPartition)
  assert found.partition.sources == ("code", "latin", "sums")
  ids = ["sums", "latin", "code"] * 15
  assert [found.partition.sources[k] for k in found.domain_N] == ids
  assert found.mass_K.sum() == pytest.approx(1)


@pytest.mark.parametrize(
  ("fields", "told"),
  [
    (
      dict(kind="trees"),
      "kind = 'trees' is unknown. Known: gem, hermes, kmeans",
    ),
    (dict(balance=-1.0), "balance = -1.0 must be at least 0"),
    (dict(codes=0), "codes = 0 must be at least 1"),
    (dict(prefix=4), "prefix = 4 must be from 1 to 3"),
    (dict(codes=256), "codes = 256 and prefix = 2 make 65,536 cells; lower"),
    (dict(kind="tree:"), "kind = 'tree:' is unknown"),
    (dict(num_clusters=0), "num_clusters = 0 must be at least 1"),
    (dict(candidates=(4, 1)), r"candidates = \(4, 1\) must be numbers above 1"),
    (dict(sample_documents=-1), "sample_documents = -1 must be at least 1"),
  ],
)
def test_what_makes_no_domains_is_refused(fields, told):
  with pytest.raises(ValueError, match=told):
    domains.Plan(**fields).check()
