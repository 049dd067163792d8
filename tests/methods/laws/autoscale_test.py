"""AutoScale's published fits, optimum and predictions, to the digits printed."""

import csv
import json

import numpy as np
import pytest

from cmtree_jax.methods.laws import autoscale
from tests import reference


@pytest.fixture
def published():
  folder = reference.folder("published", "autoscale")
  return json.loads((folder / "ddo_and_autoscale_published.json").read_text())


def test_the_seven_fits_and_the_optimum(published):
  folder = reference.folder("published", "autoscale")
  with open(folder / "ddo_gpt2large_1p2B_ppl.csv") as file:
    ppl_R = np.array(
      [float(row["ppl_average"]) for row in csv.DictReader(file)]
    )
  # A uniform run, one with each domain cut, one with each tripled.
  y_K3 = np.stack([ppl_R[1:8], np.full(7, ppl_R[0]), ppl_R[8:]], 1) / ppl_R[0]
  law = autoscale.fit_exactly(np.array(published["fit_x"]), y_K3)
  expected = published["published_fit_abc"]
  np.testing.assert_allclose(
    np.transpose(law), [expected[k] for k in published["domains"]], rtol=1e-10
  )
  expected = published["published_optimum_rel_to_uniform"]
  np.testing.assert_allclose(
    autoscale.allocate(law, total=7.0),
    [expected[k] for k in published["domains"]],
    atol=1e-8,  # eight digits are printed
  )


def test_the_predictions_of_larger_scales(published):
  # Each is the continuation of the two before it on the same ratio.
  scales = published["autoscale_n_star_billion_tokens"]
  smaller_K, larger_K = np.array(scales["N=0.3"]), np.array(scales["N=1.2"])
  for expected_K in published["autoscale_prediction_next"].values():
    smaller_K, larger_K = (
      larger_K,
      autoscale.next_scale(smaller_K, larger_K),
    )
    np.testing.assert_allclose(larger_K, expected_K, atol=1e-8)
