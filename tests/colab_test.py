"""Every notebook runs from its first cell to its last, as Colab would open it."""

import os
import pathlib
from typing import Any

import jupytext
import nbclient
import pytest

import cmtree_jax

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / "colab").glob("*.md"))
by_name = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


@by_name
@pytest.mark.slow
def test_the_notebook_runs(path, tmp_path, monkeypatch):
  monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{os.environ.get('PYTHONPATH', '')}")
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
  notebook: Any = jupytext.read(path)
  client = nbclient.NotebookClient(
    notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}
  )
  client.execute()
  outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
  assert any("image/png" in out.get("data", {}) for out in outputs)


@by_name
def test_colab_opens_the_same(path):
  def cells(file):
    notebook: Any = jupytext.read(file)
    return [(cell.cell_type, cell.source) for cell in notebook.cells]

  again = "python -m jupytext --to ipynb colab/*.md"
  assert cells(path.with_suffix(".ipynb")) == cells(path), again


@by_name
def test_colab_installs_this_version(path):
  assert f" -b v{cmtree_jax.__version__} " in path.read_text()
