"""Data Mixing Laws: aggregation, nested extrapolation, and the planted order."""

import jax
import numpy as np
import pytest

from cmtree_jax.methods import mixing_laws
from tests.methods import planted_runs as planted


def ended(method, curve=planted.constant_curve, stop=10_000, **facts):
  start = method.init(jax.random.key(0), planted.facts(**facts))
  state, _, infos = planted.drive(method, start, curve=curve, stop=stop)
  return start, state, infos


@pytest.mark.parametrize("aggregation", ["targets", "explicit", "implicit"])
@pytest.mark.parametrize("search", ["grid", "solver"])
def test_planted_domains_come_in_order(aggregation, search):
  # The law of the sum of target and copy does not tell how to divide it.
  method = mixing_laws.make(
    num_mixtures=40, aggregation=aggregation, search=search, extrapolate=False
  )
  _, state, infos = ended(method)
  assert len(infos) == 40
  p_K = planted.recipe(method, state)
  assert p_K[planted.TARGET] + p_K[planted.COPY] > 0.8
  assert p_K[planted.NOISE] <= p_K[planted.NEUTRAL] + 1e-6
  assert p_K[planted.EMPTY] < 1e-6


def test_the_cap_is_obeyed_by_runs_and_optimum():
  method = mixing_laws.make(extrapolate=False)
  start, state, _ = ended(method, max_weight=2.0)
  assert len(start.trials.mixture_RK) == 3 * 4  # one domain is empty
  assert (start.trials.mixture_RK <= 2 * planted.Q + 1e-9).all()
  p_K = planted.recipe(method, state)
  assert (p_K <= 2 * planted.Q * (1 + 1e-5)).all()
  assert p_K[planted.TARGET] + p_K[planted.COPY] > 0.5


def crossing(mixture_K, size):
  """Noise is ahead for as long as runs and models are short and small."""
  steps, final = (
    np.array(planted.CURVE_STEPS),
    planted.loss_T(mixture_K),
  )
  early_C = (10 / steps) ** 0.9 + (100 / planted.SIZES[size]) ** 0.9
  return final + 8 * (1 - mixture_K[planted.NOISE]) * early_C[:, None]


@pytest.mark.slow
def test_runs_are_extrapolated_to_the_final_steps_and_size():
  # By the end of a run noise still wins; at the end of training it loses.
  sizes = dict(sizes=planted.SIZES, final_size=planted.FINAL_SIZE)
  method = mixing_laws.make(num_mixtures=20, search="solver")
  start, state, infos = ended(method, crossing, **sizes)
  assert len(infos) == 20 * len(planted.SIZES)
  np.testing.assert_array_equal(start.trials.size_R[:5], [0, 1, 2, 3, 0])
  blind = mixing_laws.make(num_mixtures=20, search="solver", extrapolate=False)
  _, unaware, infos = ended(blind, crossing, **sizes)
  assert len(infos) == 20
  p_K, q_K = (
    planted.recipe(method, state),
    planted.recipe(blind, unaware),
  )
  assert q_K[planted.NOISE] > 0.9, q_K
  assert p_K[planted.TARGET] + p_K[planted.COPY] > 0.9, p_K


def late(mixture_K, size):
  """Noise is ahead for as long as runs are short."""
  del size
  early_C = (10 / np.array(planted.CURVE_STEPS)) ** 0.9
  ahead_C = 40 * (1 - mixture_K[planted.NOISE]) * early_C
  return planted.loss_T(mixture_K) + ahead_C[:, None]


def test_a_curve_of_three_points_is_not_extrapolated():
  def answer(**options):
    method = mixing_laws.make(num_mixtures=20, search="solver", **options)
    return planted.recipe(method, ended(method, late)[1])

  measured_K = answer(extrapolate=False)
  # From fit_from on: steps 60, 80 and 100.
  np.testing.assert_allclose(answer(fit_from=0.6), measured_K, atol=1e-6)
  assert np.abs(answer() - measured_K).max() > 0.05


def test_it_is_natural_before_the_first_run_and_legal_after_any():
  method = mixing_laws.make(num_mixtures=12)
  for stop in (0, 1, 2):
    _, state, _ = ended(method, stop=stop)
    p_K = planted.recipe(method, state)
    if stop == 0:
      np.testing.assert_allclose(p_K, planted.Q, atol=1e-5)
    np.testing.assert_allclose(p_K.sum(), 1, rtol=1e-5)


def test_what_is_read_depends_on_the_options():
  reads = mixing_laws.make().signals
  assert "curve_CT" in reads and "loss_K" not in reads
  assert "curve_CT" not in mixing_laws.make(extrapolate=False).signals
  explicit = mixing_laws.make(aggregation="explicit").signals
  assert "loss_K" in explicit and "curve_CT" not in explicit


@pytest.mark.parametrize(
  "options",
  [
    dict(num_mixtures=0),
    dict(aggregation="sum"),
    dict(search="best"),
    dict(fit_from=1.0),
    dict(grid=0.0),
    dict(huber_delta=0.0),
  ],
)
def test_nonsense_is_refused(options):
  with pytest.raises(ValueError, match=next(iter(options))):
    mixing_laws.make(**options)


def power_law(mixture_K, size):
  """Losses that follow the laws of steps and sizes exactly."""
  steps = np.array(planted.CURVE_STEPS)
  early_C = (10 / steps) ** 0.6 + (100 / planted.SIZES[size]) ** 0.5
  return planted.loss_T(mixture_K) + early_C[:, None]


@pytest.mark.slow
def test_the_end_tells_how_far_the_fits_of_other_starts_differ():
  sizes = dict(sizes=planted.SIZES, final_size=planted.FINAL_SIZE)
  method = mixing_laws.make(num_mixtures=20, search="solver")
  start, state, _ = ended(method, power_law, **sizes)
  told = method.tell(state)
  assert set(told["spread_over_starts"]) == {"steps", "size", "mixture"}
  assert all(0 <= x < 0.1 for x in told["spread_over_starts"].values())
  p_K = planted.recipe(method, state)
  late = (10 / 1000) ** 0.6 + (100 / planted.FINAL_SIZE) ** 0.5
  true = planted.loss_T(p_K).mean() + late
  assert told["predicted_loss"] == pytest.approx(true, abs=0.05)
  assert np.isnan(method.tell(start)["predicted_loss"])
