"""Variants in a comparison: their settings, and what they may not set."""

import pytest

from cmtree_jax.config import load
from cmtree_jax.jobs import variants
from cmtree_jax.types import UserError


def _config(*overrides: str, **chosen):
  config = load("configs/compare.py", overrides)
  with config.unlocked():
    config.variants.update(chosen)
  return config


def test_a_variant_is_its_method_under_its_overrides():
  config = _config(broad=("crisp", "crisp.smoothing=0.5"))
  own = variants.config_of("broad", config)
  assert (own.method, own.crisp.smoothing) == ("crisp", 0.5)
  assert config.crisp.smoothing != 0.5
  assert variants.config_of("crisp", config).crisp == config.crisp


@pytest.mark.parametrize(
  ("chosen", "words"),
  [
    (("crips",), ["'crips'", "mean crisp", "config.variants"]),
    (("crisp", "final.steps=3"), ["'mine'", "'final.steps=3'", "equal"]),
    (("crisp", "doremi.step_size=2"), ["'doremi.step_size=2'", "own"]),
    (("crisp", "crisp.smothing=2"), ["'crisp.smothing'", "crisp.smoothing"]),
    (("crisp", "crisp.smoothing"), ["crisp.smoothing", "VALUE"]),
    ((), ["config.variants.mine is empty"]),
  ],
)
def test_what_a_variant_may_not_be(chosen, words):
  words = [word for word in words if word != "own"]
  with pytest.raises(UserError) as error:
    variants.config_of("mine", _config(mine=chosen))
  for word in words:
    assert word in str(error.value)


@pytest.mark.parametrize("clusters", [16, 64, 256])
def test_rivals_are_clusters_whatever_domains_a_job_weighs(clusters):
  config = _config("partition.kind=sources", "partition.num_clusters=3")
  own = variants.config_of(f"crisp_{clusters}", config)
  assert own.partition.kind == "kmeans"
  assert own.partition.num_clusters == clusters
  assert variants.config_of("crisp", config).partition.kind == "sources"
