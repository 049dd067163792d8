"""Several views: the rows are those of the parts, and the blocks tell which."""

import io

import numpy as np
import pytest

from cmtree_jax import embed
from cmtree_jax.embed import form, of_proxy, views, whiten
from cmtree_jax.types import UserError

TEXTS = [f"text {i} of some Words {i * i}.\n" * (1 + i % 3) for i in range(40)]
PLAN = embed.Plan(dim=4, max_features=100)
WIDTH = len(form.FEATURES) + 1


def fit(tmp_path, *views: str, texts=TEXTS) -> embed.Embedder:
  return embed.fit(texts, PLAN._replace(views=views), cache_dir=tmp_path)


def test_rows_are_those_of_the_parts_side_by_side(tmp_path):
  topic, alone = fit(tmp_path, "topic"), fit(tmp_path, "form")
  rows = fit(tmp_path, "topic", "form")(TEXTS)
  part = form.fit(TEXTS, sample=PLAN.sample, seed=0)(TEXTS)
  np.testing.assert_array_equal(alone(TEXTS), part)
  np.testing.assert_allclose(rows[:, :4] * 2**0.5, topic(TEXTS), rtol=1e-6)
  np.testing.assert_allclose(rows[:, 4:] * 2**0.5, part, rtol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


def test_one_topic_is_the_embedder_of_its_kind(tmp_path):
  """With the files that it had before there were views, and under the same key."""
  (kept,) = {
    str(embed.to_arrays(one)["kind"])
    for one in (
      embed.fit(TEXTS, PLAN, cache_dir=tmp_path),
      fit(tmp_path, "topic"),
    )
  }
  assert kept == "TfidfEmbedder"
  assert embed.Plan().identity() == {
    "kind": "tfidf",
    "dim": 64,
    "max_features": 20_000,
    "sample": 5_000,
  }
  several = PLAN._replace(views=("topic", "form"))
  other = PLAN._replace(views=("form", "topic"))
  assert several.identity() != other.identity()
  # What a proxy makes of texts is not of the folder that it reads them from.
  of_models = several._replace(
    views=("topic", "form", "loss"),
    hidden_dim=3,
    hidden_layers=2,
    trajectory_ages=6,
  )
  assert of_models.identity() == several.identity()


def test_it_comes_back_from_a_file_with_its_blocks(tmp_path):
  made = fit(tmp_path, "form", "topic")
  file = io.BytesIO()
  np.savez(file, allow_pickle=False, **embed.to_arrays(made))
  file.seek(0)
  arrays = np.load(file)
  again = embed.from_arrays(arrays, cache_dir=tmp_path)
  np.testing.assert_array_equal(again(TEXTS), made(TEXTS))
  assert embed.blocks(arrays, WIDTH + 4) == (
    embed.Block("form", 0, WIDTH),
    embed.Block("topic", WIDTH, WIDTH + 4),
  )
  alone = embed.to_arrays(fit(tmp_path, "topic"))
  assert embed.blocks(alone, 4) == (embed.Block("topic", 0, 4),)


def test_the_order_of_texts_changes_nothing(tmp_path):
  one = fit(tmp_path, "topic", "form")
  two = fit(tmp_path, "topic", "form", texts=TEXTS[::-1])
  np.testing.assert_array_equal(one(TEXTS), two(TEXTS))
  np.testing.assert_array_equal(one(TEXTS)[3:5], one(TEXTS[3:5]))


def test_views_that_there_are_not_are_told_with_the_known(tmp_path):
  with pytest.raises(
    UserError, match=r"embedding.views 'shape'.*form, grams, topic"
  ):
    fit(tmp_path, "topic", "shape")


@pytest.mark.parametrize(
  "views", [(), ("form", "form"), ("loss",), ("loss", "topic")]
)
def test_views_that_cannot_be_are_refused(views):
  with pytest.raises(
    ValueError, match="each view once, one of texts .topic, form"
  ):
    PLAN._replace(views=views).check()


def test_an_odd_number_of_ages_is_refused():
  for ages in (0, 3):
    with pytest.raises(ValueError, match=f"even number .* came {ages}"):
      PLAN._replace(trajectory_ages=ages).check()


@pytest.mark.parametrize("base", [("topic",), ("form", "topic")])
def test_views_of_a_model_come_after_those_of_texts(tmp_path, base):
  first = fit(tmp_path, *base)
  rows, width = first(TEXTS), first(TEXTS).shape[1]
  x_NF = np.random.default_rng(0).normal(size=(40, 2))
  whitening = whiten.fit(x_NF)
  whole = views.extended(
    first,
    embed.blocks(embed.to_arrays(first), width),
    {"loss": of_proxy.ProxyEmbedder(whitening, 2e6)},
    [3],
  )
  arrays = embed.to_arrays(whole)
  names = [block.name for block in embed.blocks(arrays, width + 3)]
  assert names == [*base, "loss"]
  assert embed.blocks(arrays, width + 3)[-1] == ("loss", width, width + 3)
  found = views.side_by_side(rows, len(base), [whitening(x_NF)])
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
  # Every view counts for as much as any other.
  for _, start, stop in embed.blocks(arrays, width + 3):
    length = np.linalg.norm(found[:, start:stop], axis=1)
    np.testing.assert_allclose(length, (len(base) + 1) ** -0.5, rtol=1e-5)
  again = embed.from_arrays(arrays, cache_dir=tmp_path)
  with pytest.raises(
    UserError, match="a pass of its proxy, 2e.06 FLOPs per token"
  ):
    again(TEXTS)
