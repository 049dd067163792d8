"""Commands in processes of their own: failures, and a signal that ends them."""

import os
import pathlib
import signal
import sys
import threading
import time

from cmtree_jax.jobs import subprocesses
from cmtree_jax.jobs.subprocesses import Task

_WAITS = """
import pathlib, signal, sys, time
def end(number, frame):
  pathlib.Path(sys.argv[1]).write_text("saved")
  sys.exit(143)
signal.signal(signal.SIGTERM, end)
pathlib.Path(sys.argv[1]).write_text("at work")
time.sleep(60)
"""


def task(folder: pathlib.Path, name: str, code: str, *more: str) -> Task:
  command = (sys.executable, "-c", code, *more)
  return Task(name, command, folder / "logs" / f"{name}.txt")


def test_a_failure_stops_no_other_and_is_told(tmp_path, capsys):
  tasks = [
    task(tmp_path, "bad", "import sys; print('no'); print('why'); sys.exit(2)"),
    task(tmp_path, "good", "print('well')"),
  ]
  assert subprocesses.run(tasks, parallel=1, done=3) == 2
  assert (tmp_path / "logs" / "good.txt").read_text() == "well\n"
  told = capsys.readouterr().err.splitlines()
  assert told[0] == "3 of 5 runs were done before."
  assert told[1].startswith("4 of 5: bad ended with status 2, see ")
  assert told[1].endswith("bad.txt: why")
  assert told[2].startswith("5 of 5: good, ")


def test_as_many_run_at_once_as_are_allowed(tmp_path):
  code = "import time; print(time.time()); time.sleep(1); print(time.time())"
  tasks = [task(tmp_path, str(i), code) for i in range(3)]
  assert subprocesses.run(tasks, parallel=2) == 0
  spans = [list(map(float, one.log.read_text().split())) for one in tasks]
  assert spans[1][0] < spans[0][1]  # the first two together
  assert spans[2][0] > min(spans[0][1], spans[1][1])  # the third later


def test_a_signal_ends_what_is_at_work_and_starts_no_more(tmp_path, capsys):
  saved = tmp_path / "state"
  tasks = [
    task(tmp_path, "first", _WAITS, str(saved)),
    task(tmp_path, "second", "print('never')"),
  ]

  def stop():
    while not saved.exists() or saved.read_text() != "at work":
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)

  before = signal.getsignal(signal.SIGTERM)
  threading.Thread(target=stop).start()
  assert subprocesses.run(tasks, parallel=1) == 143
  assert saved.read_text() == "saved"
  assert not tasks[1].log.exists()
  assert "Run the same command to go on." in capsys.readouterr().err
  assert signal.getsignal(signal.SIGTERM) == before
