"""The compiler's verdict as it is read; and itself, where libtpu is installed."""

import importlib.util
import json
from typing import Any

import jax
import pytest

from cmtree_jax import sharding
from cmtree_jax.proxy import model
from experiments import tpu_compile

CASE = tpu_compile.Case(
  "v5e:2x4", "0.1m", 256, "bfloat16", (1, 8, 1), 2, 32, 2, "tape"
)
# What a program of 42M parameters once came to.
REFUSAL = (
  "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
  "space hbm. Used 17.00G of 15.75G hbm. Exceeded hbm capacity by 1.25G."
)


def test_a_refusal_tells_what_was_used():
  row = tpu_compile.refused(CASE, "train", REFUSAL)
  assert (row.fits, row.told) == (False, "17.00G of 15.75G")
  with pytest.raises(RuntimeError, match="train of .* a bad layout"):
    tpu_compile.refused(CASE, "train", "a bad layout")


@pytest.mark.parametrize("most", [0, 1, 2, 7, 8, 13])
@pytest.mark.parametrize("start", [1, 8])
def test_the_largest_batch_is_found_by_few_compilations(most, start):
  tried = []

  def fits(rows):
    tried.append(rows)
    return rows <= most

  assert tpu_compile.largest(fits, start=start) == most
  assert len(tried) == len(set(tried)) <= 8


def test_without_the_compiler_one_line_says_what_to_install(
  monkeypatch, capsys
):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  assert tpu_compile.main([]) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert "pip install libtpu" in line


needs_compiler = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="libtpu, the TPU's compiler, is not installed",
)


@needs_compiler
def test_programs_compile_for_eight_chips_that_are_not_there(tmp_path, capsys):
  path = tmp_path / "rows.json"
  arguments = (
    "--preset 0.1m --vocab 256 --rows 2 --row-tokens 32 --steps 2 --programs "
    f"train window:unrolled tree_step --json {path}"
  ).split()
  assert tpu_compile.main(arguments) == 0
  train, window, tree = json.loads(path.read_text())
  assert train["fits"] and window["fits"] and tree["fits"]
  # Each step sums its gradient over the chips, and nothing else.
  assert train["exchanged"]["all-reduce, in loops"][0] == 2
  parameters = 4 * model.from_preset("0.1m", vocab_size=256).num_parameters
  assert train["exchanged"]["all-reduce, in loops"][1] == 2 * parameters
  assert train["gathered_params"] == window["gathered_params"] == 0
  assert window["flops"] > 3 * train["flops"] > 0
  # What the file has is not compiled again.
  before = path.read_text()
  capsys.readouterr()
  assert tpu_compile.main(arguments) == 0
  assert path.read_text() == before
  assert "window:unrolled" in capsys.readouterr().out


@needs_compiler
@pytest.mark.parametrize(
  ("dtype", "kept"),
  [("bfloat16", model._KEPT), ("bfloat16", 0), ("float32", 0)],
)
def test_the_kernel_is_in_the_program_where_heads_are_divided_too(
  monkeypatch, dtype, kept
):
  """Once forwards and twice backwards, also where blocks compute the rest again."""
  monkeypatch.setattr(model, "_KEPT", kept)
  devices = tpu_compile.devices_of(CASE.topology)
  mesh = sharding.mesh_of(devices, data=4, model=2)
  case = CASE._replace(dtype=dtype, mesh=(1, 4, 2), attention="splash")
  # As jobs do; products of bfloat16 would not compile.
  with jax.default_matmul_precision("float32"):
    lowered = tpu_compile.PROGRAMS["train"](case, mesh)
    text: Any = lowered.compile().as_text()
  # The layers are written out, and each has its own.
  layers = model.PRESETS[CASE.preset]["layers"]
  assert text.count('custom_call_target="tpu_custom_call"') == 3 * layers
