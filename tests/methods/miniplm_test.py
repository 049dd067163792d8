"""MiniPLM: which documents a teacher gains most on."""

import numpy as np
import pytest

from cmtree_jax.methods import miniplm
from tests.methods import measured

#                 common  hard  noise  hard  common  memorized
PROXY = np.array([1.0, 4.0, 7.0, 5.0, 2.0, 3.0])
TEACHER = np.array([0.9, 2.5, 7.0, 3.0, 1.9, 0.5])
POOL = measured.documents(length=10, loss_ON=np.stack([PROXY, TEACHER]))
FACTS = measured.known(POOL)


def test_losses_are_subtracted_not_divided():
  gain_N = miniplm.gains(POOL)
  np.testing.assert_allclose(gain_N, [0.1, 1.5, 0, 2.0, 0.1, 2.5], atol=1e-6)
  # Divided, as the authors' README has it, the first would rank first.
  two = measured.documents(loss_ON=np.array([[0.4, 4.0], [0.1, 2.0]]))
  assert np.argmax(miniplm.gains(two)) == 1


def test_easy_documents_and_noise_are_left_out():
  method = miniplm.make(share=0.5)
  assert measured.kept(method, FACTS) == [1, 3, 5]
  (told,) = method.history(measured.found(method, FACTS))
  assert told["tokens"] == 30
  assert told["proxy_loss"] == pytest.approx(PROXY.mean())
  assert told["teacher_loss"] == pytest.approx(TEACHER.mean())


def test_the_models_stand_in_the_order_in_which_they_are_read():
  method = miniplm.make()
  assert method.look.models == ("proxy", "teacher")
  assert method.look.observations == 2 and not method.targeted


def test_budget_and_order():
  rng = np.random.default_rng(0)
  facts = measured.known(measured.documents(loss_ON=rng.uniform(1, 5, (2, 40))))
  measured.assert_budget(miniplm.make(share=0.3), facts, 0.3)
  measured.assert_order_is_nothing(miniplm.make(), facts)


def test_the_same_model_twice_gains_nothing_and_ids_decide():
  facts = measured.known(measured.documents(loss_ON=np.ones((2, 40))))
  measured.assert_budget(miniplm.make(share=0.3), facts, 0.3)
  measured.assert_order_is_nothing(miniplm.make(share=0.3), facts)


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share):
  with pytest.raises(ValueError, match="must be"):
    miniplm.make(share=share)
