"""A command line: flags to a config, the config to a job, its errors to one line."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence

from cmtree_jax.data import mirror
from cmtree_jax.jobs import connect
from cmtree_jax.jobs.connect import Plan
from cmtree_jax.report.screen import printable
from cmtree_jax.types import Fault, Interrupted, UserError


def command(
  name: str,
  description: str,
  job: Callable[..., int],
  arguments: Sequence[str] | None,
  *,
  estimate: Callable[..., int] | None = None,
) -> int:
  """Runs `job(config, workdir, overwrite=...)` as the arguments say.

  Args:
    name: of the module that is run.
    description: what the job does, for --help.
    job: returns its exit status; imports what is heavy when it is called.
    arguments: of the command line; None: those of this process.
    estimate: `estimate(config)` tells what the job would take, for --estimate.
  Returns:
    The exit status: the job's, 1 for a fault, 2 for a mistake of the user, 143 if it
    was stopped.
  """
  overrides, rest = config_arguments(arguments)
  parser = _parser(name, description)
  if estimate is not None:
    parser.add_argument(
      "--estimate",
      action="store_true",
      help="tell FLOPs, time and memory of the job, and train nothing",
    )
  flags = parser.parse_args(rest)

  def run() -> int:
    from cmtree_jax import config
    from cmtree_jax.jobs import workdir as workdirs

    resolved = config.load(flags.config, overrides)
    if estimate is not None and flags.estimate:
      return estimate(resolved)
    workdir = workdirs.folder(flags.workdir)
    return job(resolved, workdir, overwrite=flags.overwrite)

  if estimate is not None and flags.estimate and flags.distributed:
    parser.error("--estimate is for one process; leave --distributed out")
  plan = Plan(flags.coordinator, flags.process_id, flags.num_processes)
  if not flags.distributed:
    if plan != Plan():
      parser.error("--coordinator and its like need --distributed")
    return status_of(run)
  try:
    status = status_of(lambda: connect.connect(plan) or 0)
    return connect.leave(status or status_of(run))
  except Exception as error:
    return connect.abandon(error)


def config_arguments(
  arguments: Sequence[str] | None,
) -> tuple[list[str], list[str]]:
  """Overrides of the config, as `config.load` takes them, and all other arguments.

  Args:
    arguments: of the command line; None: those of this process.
  """
  if arguments is None:
    _name_files_in_utf8()
    arguments = sys.argv[1:]
  prefix = "--config."
  overrides = [a[len(prefix) :] for a in arguments if a.startswith(prefix)]
  return overrides, [a for a in arguments if not a.startswith(prefix)]


def _name_files_in_utf8() -> None:
  """Starts this command anew where its locale has no letters for names of files.

  Python does so itself in the locale C, unless PYTHONUTF8=0 (PEP 540).
  """
  asked = os.environ.get("PYTHONUTF8") == "1"  # and -X utf8=0 is stronger
  if sys.getfilesystemencoding() != "utf-8" and not asked:
    os.environ["PYTHONUTF8"] = "1"  # its workers read it, too
    os.execv(sys.executable, sys.orig_argv)


def status_of(run: Callable[[], int]) -> int:
  """What came of it, with the last line that a person is told.

  A terminal or log that is no UTF-8 gets question marks for what it cannot write.
  """
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="replace")
  try:
    return run()
  except UserError as error:
    print(printable(f"Error: {error}"), file=sys.stderr)
    return 2
  except Fault as error:
    print(printable(f"Fault: {error}"), file=sys.stderr)
    return 1
  except (Interrupted, KeyboardInterrupt):  # before the job looks after signals
    print("Interrupted. Run the same command to go on.", file=sys.stderr)
    return 143
  finally:
    mirror.close()


def _parser(name: str, description: str) -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog=f"python -m {name}",
    description=f"{description} The same command continues what was stopped.",
    epilog="Any field of the config is overridden by --config.FIELD=VALUE, "
    "for example --config.cmtree.branching=4,4.",
    allow_abbrev=False,
  )
  parser.add_argument(
    "--config", required=True, help="file with get_config(), or file:argument"
  )
  parser.add_argument(
    "--workdir",
    required=True,
    help="folder for checkpoints and results, or an address such as gs://b/run",
  )
  parser.add_argument(
    "--overwrite", action="store_true", help="start anew in a used workdir"
  )
  many = parser.add_argument_group(
    "several processes",
    "The same command is started once on every host; workdir and corpus are shared.",
  )
  many.add_argument(
    "--distributed",
    action="store_true",
    help="one process of several; TPU VMs, SLURM and GKE tell which",
  )
  many.add_argument(
    "--coordinator", help="HOST:PORT of the first process, where nobody tells"
  )
  many.add_argument("--process-id", type=int, help="of this one, from 0")
  many.add_argument("--num-processes", type=int, help="of all together")
  return parser
