"""A real corpus in a folder: pool.jsonl.gz and tasks/*.jsonl.gz, each task a target.

python -m cmtree_jax.main --config configs/bench.py:FOLDER --workdir runs/bench

Made for 117 MB in 69k documents of 34 hidden sources and twelve tasks. The search
and the final trainings are those of quickstart.py.
"""

from pathlib import Path

from cmtree_jax.types import UserError
from configs import default


def get_config(folder: str = ""):
  """The defaults on the corpus of a folder."""
  tasks = sorted(Path(folder, "tasks").glob("*.jsonl.gz")) if folder else []
  if not tasks:
    raise UserError(
      "configs/bench.py wants a folder with pool.jsonl.gz and tasks/*.jsonl.gz, "
      f"came {folder!r}; write --config configs/bench.py:FOLDER."
    )
  config = default.get_config()
  config.data.source = (f"jsonl:{folder}/pool.jsonl.gz",)
  config.data.target_files = tuple(map(str, tasks))
  config.data.targets = ()
  return config
