"""A command line: what a job raises is one line and a status."""

import io
import os
import subprocess
import sys

import pytest

from cmtree_jax.jobs.command import command
from cmtree_jax.report import screen
from cmtree_jax.types import Fault, UserError


@pytest.mark.parametrize(
  ("raised", "status", "line"),
  [
    (UserError("Wanted a file."), 2, "Error: Wanted a file."),
    (Fault("A loss is not finite."), 1, "Fault: A loss is not finite."),
    (KeyboardInterrupt(), 143, "Interrupted. Run the same command to go on."),
  ],
)
def test_what_a_job_raises_is_one_line(raised, status, line, tmp_path, capsys):
  def job(config, workdir, *, overwrite):
    raise raised

  arguments = ["--config", "configs/smoke.py", "--workdir", str(tmp_path)]
  found = command("test", "A test.", job, arguments)
  assert (found, capsys.readouterr().err) == (status, f"{line}\n")


def test_a_log_that_is_no_utf8_loses_signs_and_not_the_job(
  tmp_path, monkeypatch
):
  """All results are written when a job tells of them."""
  written = {name: io.BytesIO() for name in ("stdout", "stderr")}
  for name, data in written.items():
    monkeypatch.setattr(sys, name, io.TextIOWrapper(data, encoding="ascii"))

  def job(config, workdir, *, overwrite):
    screen.console().print(
      "to natural: \u22120.05, \u043c\u0430\u0447\u0442\u0430"
    )
    raise UserError("\u043d\u0435\u0442")

  arguments = ["--config", "configs/smoke.py", "--workdir", str(tmp_path)]
  assert command("test", "A test.", job, arguments) == 2
  for stream in (sys.stdout, sys.stderr):
    stream.flush()
  assert written["stdout"].getvalue() == b"to natural: ?0.05, ?????\n"
  assert written["stderr"].getvalue() == b"Error: ???\n"


@pytest.mark.parametrize(
  ("flags", "encoding", "name"),
  [((), "utf-8", "'caf\\xe9'"), (("-X", "utf8=0"), "ascii", "'caf\\udcc3")],
)
def test_names_are_utf8_whatever_the_locale_is(flags, encoding, name):
  """Unless a person insists, who is told that a name cannot be read."""
  shown = "import sys\n"
  shown += "from cmtree_jax.jobs.command import config_arguments\n"
  shown += "print(*map(ascii, config_arguments(None)[1]))\n"
  shown += "print(sys.getfilesystemencoding())\n"
  done = subprocess.run(
    [*(sys.executable, *flags, "-c", shown), "caf\xe9".encode()],
    env=os.environ
    | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    capture_output=True,
    text=True,
    check=True,
    timeout=60,
  )
  found = done.stdout.split()
  assert found[1] == encoding
  assert found[0].startswith(name)


def test_an_estimate_takes_the_place_of_the_job(tmp_path, capsys):
  """It gets the config alone, so it cannot touch the workdir."""
  told = []
  arguments = ["--config", "configs/smoke.py", "--workdir", str(tmp_path / "w")]
  arguments += ["--estimate", "--config.seed=7"]

  def job(*args, **kwargs):
    raise AssertionError("the job was started")

  def estimate(config):
    told.append(config.seed)
    return 0

  assert command("test", "A test.", job, arguments, estimate=estimate) == 0
  assert told == [7]
  assert not (tmp_path / "w").exists()
  with pytest.raises(SystemExit):
    command("test", "", job, [*arguments, "--distributed"], estimate=estimate)
  assert "one process" in capsys.readouterr().err
