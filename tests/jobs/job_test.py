"""What every job does around its story."""

import jax
import numpy as np
import pytest

from cmtree_jax.config import load
from cmtree_jax.jobs import job
from cmtree_jax.types import UserError

_NAMES = (
  "jax_compilation_cache_dir",
  "jax_persistent_cache_min_compile_time_secs",
  "jax_persistent_cache_min_entry_size_bytes",
)
_PRECISION = "jax_default_matmul_precision"


@pytest.fixture
def settings():
  """Those of the compilation cache, put back at the end."""
  before = {name: getattr(jax.config, name) for name in _NAMES}
  yield before
  for name, value in before.items():
    jax.config.update(name, value)


def test_programs_of_any_size_are_kept(tmp_path, monkeypatch, settings):
  for name in settings:
    monkeypatch.delenv(name.upper(), raising=False)
    jax.config.update(name, "" if name == _NAMES[0] else 7)
  job._keep_compiled(tmp_path)
  found = [getattr(jax.config, name) for name in _NAMES]
  assert found == [str(tmp_path), 0, 0]


def test_the_environment_chooses_what_is_kept(tmp_path, monkeypatch, settings):
  for name in settings:
    monkeypatch.setenv(name.upper(), "set")
  job._keep_compiled(tmp_path)
  assert {name: getattr(jax.config, name) for name in _NAMES} == settings


def test_float32_is_multiplied_in_full():
  before = getattr(jax.config, _PRECISION)
  jax.config.update(_PRECISION, None)
  try:
    job._multiply_in_full()
    lowered = jax.jit(lambda x: x @ x).lower(np.ones((2, 2), np.float32))
  finally:
    jax.config.update(_PRECISION, before)
  assert "HIGHEST" in lowered.as_text()


@pytest.mark.parametrize(
  "error",
  [
    OSError(28, "No space left on device"),
    RuntimeError("RESOURCE_EXHAUSTED: [errno 28: No space left on device]"),
    OSError("Error writing bytes: Disk quota exceeded"),
  ],
)
def test_a_full_disk_is_one_line(tmp_path, settings, error):
  def story(made):
    try:
      raise error
    except Exception as cause:
      raise TypeError("what came of it") from cause

  config = load("configs/smoke.py", [f"cache_dir={tmp_path / 'cache'}"])
  with pytest.raises(UserError, match="No space is left in .*run"):
    job.run(story, config, tmp_path / "run")


def test_another_error_stays_what_it_is(tmp_path, settings):
  def story(made):
    raise OSError(5, "Input/output error")

  config = load("configs/smoke.py", [f"cache_dir={tmp_path / 'cache'}"])
  with pytest.raises(OSError, match="Input/output"):
    job.run(story, config, tmp_path / "run")
