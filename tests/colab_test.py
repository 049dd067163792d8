"""Every notebook runs from its first cell to its last."""

import pathlib
from typing import Any

import jupytext
import nbclient
import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
  "path", sorted((ROOT / "colab").glob("*.md")), ids=lambda path: path.stem
)
def test_the_notebook_runs(path):
  notebook: Any = jupytext.read(path)
  client = nbclient.NotebookClient(
    notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}
  )
  client.execute()
  outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
  assert any("image/png" in out.get("data", {}) for out in outputs)
