"""What the guard says at the end."""

import re

from cmtree_jax.evaluate.verdict import Row, Verdict
from cmtree_jax.report import guard


def test_the_guard_tells_what_it_tried_and_why(capsys):
  rows = {
    name: Row(name, 2.0 + difference, difference, "code", worst, {})
    for name, difference, worst in (
      ("crisp_16", -0.2, -0.05),
      ("cmtree", -0.1, 0.03),
      ("natural", 0.0, 0.0),
    )
  }
  found = Verdict("crisp_16", "cmtree is worse than crisp_16.", 0.01, rows)
  guard.show(found, ("Not judged: dsir.",))
  told = capsys.readouterr().out
  assert re.search(r"cmtree +1\.9000 +-0\.1000 +\+0\.0300 code", told)
  assert re.search(r"crisp_16 +1\.8000 .* handed over", told)
  assert "Handed over is crisp_16: cmtree is worse than crisp_16." in told
  assert "Not judged: dsir." in told
  page = guard.markdown(found, ("Not judged: dsir.",))
  assert "| crisp_16 | 1.8000 | -0.2000 | -0.0500 code | handed over |" in page
  assert "| natural | 2.0000 |  |  |  |" in page
  assert "Handed over is crisp_16" in page and "Not judged: dsir." in page
  page = guard.markdown(None, ("The guard is off.",))
  assert "The guard is off." in page and "|" not in page
