"""How the processes of one job find each other, part, and notice that one is gone."""

import os
import re
import signal
import sys
import traceback
from typing import Any, NamedTuple

from cmtree_jax.types import UserError

# Seconds that a process waits for the others to come, and for them to part. One that
# is killed before it came is one that comes too late, so this is under a minute.
_ARRIVAL, _FAREWELL = 50, 15
_SILENCE = 25  # seconds without a sign of life; then a process counts as gone

# Exit status of a process whose job another one has left: as the coordination service
# has it, which aborts. No fault of the job, and the same command goes on.
STATUS_LOST = 134

LOST = (
  "Fault: another process of this job has ended. Start the same command on all of "
  "them to go on."
)


class Plan(NamedTuple):
  """Which process of how many this is; None where the machines know it themselves."""

  coordinator: str | None = None  # host:port of the first process
  process_id: int | None = None
  num_processes: int | None = None

  def check(self) -> None:
    """Raises UserError for a plan that is given in part, or is none."""
    given = [x is not None for x in self]
    if any(given) and not all(given):
      raise UserError(
        "--coordinator, --process-id and --num-processes go together: wanted all "
        "three, or none where TPU VMs, SLURM or GKE tell them."
      )
    if self.coordinator and not re.fullmatch(r".+:\d+", self.coordinator):
      raise UserError(
        f"--coordinator: wanted HOST:PORT of the first process, came "
        f"{self.coordinator!r}."
      )
    number, count = self.process_id, self.num_processes
    if number is not None and count is not None and not 0 <= number < count:
      raise UserError(
        f"--process-id = {number} must be from 0 to --num-processes - 1 = "
        f"{count - 1}."
      )


def connect(plan: Plan) -> None:
  """Makes this process one of a job's; before any device is touched.

  Raises:
    UserError: nobody says which process this is, or the others do not come.
  """
  plan.check()
  # Of what the coordination service says before it ends a process; see `_tell_apart`.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  _tell_apart()
  import jax

  # Its handler would take SIGTERM from ours, which also knows Ctrl-C.
  jax.config.update("jax_enable_preemption_service", False)
  # Read only where devices are CPUs.
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  try:
    jax.distributed.initialize(
      *plan[:1],
      num_processes=plan.num_processes,
      process_id=plan.process_id,
      initialization_timeout=_ARRIVAL,
      heartbeat_timeout_seconds=_SILENCE,
      shutdown_timeout_seconds=_FAREWELL,
    )
  except ValueError as error:
    raise UserError(
      f"--distributed: nothing here says which process this is ({error}) Add "
      "--coordinator=HOST:PORT --process-id=I --num-processes=N."
    ) from error
  except RuntimeError as error:
    first = str(error).splitlines()[0]
    raise UserError(
      f"--distributed: the processes did not find each other in {_ARRIVAL} s "
      f"({first}). Start the same command on all of them at once, with the address "
      "of the first."
    ) from error


def leave(status: int) -> int:
  """Parts from the others; returns the exit status."""
  import jax

  _flush()
  try:
    if jax.distributed.is_initialized():
      jax.distributed.shutdown()
  except RuntimeError:  # the others are not at their end
    os._exit(status or STATUS_LOST)
  return status


def abandon(error: BaseException) -> Any:
  """Ends this process at an error that the others may not have, at once.

  At its end Python would wait for them, and they for this one.
  """
  is_of_others = _is_of_others(error)
  if not is_of_others:
    traceback.print_exception(error)
  _flush()
  if is_of_others:
    os.write(2, _END + b"\n")  # said once, whoever notices first
  os._exit(STATUS_LOST if is_of_others else 1)


# What collectives and the coordination service say where the other side is gone.
_OF_OTHERS = re.compile(
  "gloo|connection (closed|reset|refused)|socket closed|UNAVAILABLE|heartbeat",
  re.IGNORECASE,
)


def _is_of_others(error: BaseException) -> bool:
  import jax

  is_of_jax = isinstance(error, jax.errors.JaxRuntimeError)
  return is_of_jax and bool(_OF_OTHERS.search(str(error)))


def _flush() -> None:
  sys.stdout.flush()
  sys.stderr.flush()


def _tell_apart() -> None:
  """Parts what Python prints from what libraries of C++ do, and shortens the latter.

  Where another process is gone the coordination service ends this one, from a thread
  of its own and with pages of text, and no Python can be called before it does. So a
  child reads these, and says in one line what it means.
  """
  _flush()
  old = [os.dup(1), os.dup(2)]
  reading, writing = os.pipe()
  if not os.fork():
    os.close(writing)
    # Its end is that of the process whose lines it reads.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      signal.signal(number, signal.SIG_IGN)
    _read_out(reading, old[1])
    os._exit(0)
  os.close(reading)
  for number in (1, 2):
    os.dup2(writing, number)
  os.close(writing)
  for name, number in zip(("stdout", "stderr"), old, strict=True):
    stream = getattr(sys, name)
    again = open(number, "w", buffering=1, encoding=stream.encoding)  # noqa: SIM115
    setattr(sys, name, again)


# The last thing that the coordination service says.
_END = b"distributed service detected fatal errors"
# What Gloo says of each of its rings, in parts that its threads mix; and what the
# service says before that, of errors of its own.
_NOISE = re.compile(
  rb"\[Gloo\]|peer ranks|is connected|^[\s\d:.]*$"
  rb"|coordination_?service|CoordinationService|grpc|GRPC"
)


def _read_out(reading: int, out: int) -> None:
  """Copies lines until their writer is gone, less what nobody can read."""
  with open(reading, "rb") as lines:
    ended = False
    for line in lines:
      if _END in line and not ended:
        ended = True
        os.write(out, LOST.encode() + b"\n")
      elif not ended and not _NOISE.search(line):
        os.write(out, line)
