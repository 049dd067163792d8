"""The report of a job, written after all of its results.

A page can be made again from the workdir; so whatever fails here is told in one line,
and the job has ended well.
"""

import shlex
from pathlib import Path

import numpy as np

from cmtree_jax.data.build.prepare import Prepared
from cmtree_jax.jobs.job import Job
from cmtree_jax.report.html import documents, report


def write(job: Job, data: Prepared) -> list[Path]:
  """Writes report.html and, of a job with weights of documents, what it shows of them.

  Args:
    job: all other files of its workdir are written.
    data: its corpus.
  Returns:
    The files; those that could not be written are told of.
  """
  workdir, files = job.workdir, []
  try:
    if (workdir / documents.FILE).is_file():
      files.append(_sample(workdir, data))
    files.append(report.write([workdir], workdir / report.FILE))
  except ImportError as error:
    job.reporter.say(report.missing(error))
  except Exception as error:  # whatever it is, the results are there
    job.reporter.say(
      f"No {report.FILE}: {type(error).__name__}: {error}. All results are written; "
      f"{shlex.join(['python', '-m', 'cmtree_jax.report', str(workdir)])} tries again."
    )
  return files


def _sample(workdir: Path, data: Prepared) -> Path:
  row_S = documents.rows(data.pool.key_N)
  return documents.save(
    workdir,
    row_S,
    np.asarray(data.pool.embedding_NE[row_S]),
    data.documents.rows(row_S, "id", "source", "text"),
  )
