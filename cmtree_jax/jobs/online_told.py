"""What the online runs of a job have moved, told in figures and tables."""

from pathlib import Path

from cmtree_jax.data import store
from cmtree_jax.data.build.prepare import Prepared
from cmtree_jax.jobs import cells, known
from cmtree_jax.jobs.job import Job
from cmtree_jax.recipe import schedule as schedules
from cmtree_jax.report import moments


def write(
  job: Job, data: Prepared, plan: cells.Plan, cells_folder: cells.Folder
) -> list[Path]:
  """Writes how the mixture of every online method moved, in its first run.

  Args:
    job: all of its cells are finished.
    data: its corpus.
    plan: of the cells.
    cells_folder: of the cells.
  Returns:
    The files: a figure of the mixture over time, and the leaves at three moments.
  """
  files: list[Path] = []
  folder = job.workdir / "online"
  sample = known.sample(job.config, data)
  for cell in plan.searches():
    if cell.method not in plan.online or cell.seed:
      continue
    folder.mkdir(exist_ok=True)
    schedule = schedules.load(cells_folder.kept(cell))
    text = moments.markdown(schedule, sample)
    name = f"{cell.method}.{cell.target_set}"
    store.write_atomically(folder / f"{name}.md", text)
    files.append(folder / f"{name}.md")
    try:
      moments.draw(schedule, folder / f"{name}.svg")
      files.append(folder / f"{name}.svg")
    except ImportError:
      job.reporter.say(
        f"No {name}.svg: it needs matplotlib, pip install cmtree_jax[report]."
      )
  return files
