"""Settings that contradict each other are told before any work."""

import jax
import pytest

from cmtree_jax.jobs import build
from cmtree_jax.types import UserError
from configs import claims, method


@pytest.mark.parametrize(
  ("name", "field", "value", "told"),
  [
    ("miniplm", "teacher", "7b", r"look\.teacher '7b'\. Known: 0\.1m"),
    ("forgetting", "steps_per_call", 50, r"config\.forgetting: .* have 3 ends"),
  ],
)
def test_a_look_that_no_model_can_give_is_refused(name, field, value, told):
  config = method.get_config(name)
  build.check(config)
  config.look[field] = value
  with pytest.raises(UserError, match=told):
    build.check(config)


def test_a_teacher_is_known_whether_a_method_asks_for_it_or_not():
  config = method.get_config("forgetting")
  config.look.teacher = "7b"
  with pytest.raises(UserError, match=r"look\.teacher '7b'\. Known: 0\.1m"):
    build.check(config)


def test_a_kernel_of_other_devices_is_refused():
  config = method.get_config("doremi")
  config.proxy.attention = "splash"
  with pytest.raises(UserError, match="kernel of TPUs, .* of kind cpu"):
    build.check(config)


def test_a_kernel_without_tangents_is_refused_where_they_are_taken(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  for name, wanted in (("doremi", False), ("cmtree", True), ("aioli", False)):
    config = method.get_config(name)
    config.proxy.attention = "splash"
    if wanted:
      told = r"config\.hypergradient.*'unrolled' takes.*: difference\."
      with pytest.raises(UserError, match=told):
        build.check(config)
      config.hypergradient.estimator = "difference"
    build.check(config)


def test_views_know_the_targets_that_a_comparison_searches_on():
  assert build.corpus_plan(method.get_config("crisp")).searched is None
  config = claims.get_config("toy")
  config.compare.targets = ("news>humaneval", "film_reviews+news")
  assert build.corpus_plan(config).searched == ("film_reviews", "news")
