"""What the pages say is so: commands load, links lead somewhere, rooms exist."""

import pathlib
import re
import runpy
import shlex
from collections.abc import Iterator

import pytest

from cmtree_jax import config
from cmtree_jax.methods import METHODS
from cmtree_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
  README,
  ROOT / "CONTRIBUTING.md",
  *sorted((ROOT / "docs").glob("*.md")),
]


def _text(page: pathlib.Path) -> str:
  return page.read_text(encoding="utf-8")


def _commands() -> Iterator[str]:
  """Every `python -m ...` with a config, in blocks of code and inside lines."""
  for page in PAGES:
    blocks = re.findall(r"```bash\n(.*?)```", _text(page), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    prose = re.sub(r"```.*?```", "", _text(page), flags=re.DOTALL)
    lines += [" ".join(x.split()) for x in re.findall(r"`([^`]*)`", prose)]
    for line in lines:
      found = re.search(r"python -m (.*--config .*)", line)
      if found and "FOLDER" not in line and "NAME" not in line:
        yield found[1]


COMMANDS = sorted(set(_commands()))


def test_the_readme_is_for_ten_minutes():
  assert len(_text(README).splitlines()) <= 180


def test_the_readme_counts_what_the_tree_is_compared_with():
  count = re.search(r"comparison with (\d+)\s+published", _text(README))
  # All but the tree and its learner on given domains.
  assert count and int(count[1]) == len({*METHODS} - {"cmtree", "tilts"})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_settings_that_exist(command):
  module, *words = shlex.split(command.replace("$seed", "0"), comments=True)
  assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
  prefix = "--config."
  config.load(
    words[words.index("--config") + 1],
    [word.removeprefix(prefix) for word in words if word.startswith(prefix)],
  )


def test_commands_are_found():
  assert len(COMMANDS) > 10


def test_every_setting_in_a_page_exists():
  settings = []
  for page in PAGES:
    settings += re.findall(r"--config\.([a-z_.]+=[^\s`]*)", _text(page))
    _, *tables = _text(page).split("| `--config.` |")
    for table in tables:
      rows = table.partition("\n\n")[0]
      settings += re.findall(r"^\| `([^`]+)`", rows, re.MULTILINE)
  assert len(settings) > 30
  names = ("configs/compare.py", "configs/views.py", "beds.b:toy")
  configs = [config.load(name, []) for name in names]
  wrong = []
  for setting in sorted({one.replace("$seed", "0") for one in settings}):
    if setting.endswith("="):  # a name alone, or the empty tuple
      continue
    refused = []
    for one in configs:
      try:
        config.override_field(one, setting)
        break
      except UserError as error:
        refused.append(str(error))
    else:
      wrong.append(refused[0])
  assert wrong == []


def test_the_example_of_the_readme_runs(tmp_path):
  (example,) = re.findall(r"```python\n(.*?)```", _text(README), re.DOTALL)
  (tmp_path / "example.py").write_text(example)
  found = runpy.run_path(str(tmp_path / "example.py"))["found"]
  assert found.loss > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
  for link in re.findall(r"\]\(([^)\s]+)\)", _text(page)):
    if link.startswith("http"):
      continue
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    assert target.exists(), link
    if anchor:
      assert anchor in _anchors(target), link


def _anchors(page: pathlib.Path) -> list[str]:
  """Of headings, as GitHub makes them."""
  headings = re.findall(r"^#+ (.+)$", _text(page), re.MULTILINE)
  return [
    re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    for heading in headings
  ]


def test_the_layout_names_every_room_and_no_other():
  named = re.findall(
    r"^\| `(cmtree_jax/[^`]*)`", _text(ROOT / "docs/layout.md"), re.M
  )
  rooms = {path.parent for path in (ROOT / "cmtree_jax").rglob("*.py")}
  assert sorted(named) == sorted(
    f"{p.relative_to(ROOT).as_posix()}/" for p in rooms
  )


def test_the_layout_names_every_loop():
  table = _text(ROOT / "docs/layout.md").partition("| loop |")[2]
  named = re.findall(r"^\| `(\w+)`", table.partition("\n\n")[0], re.MULTILINE)
  files = {path.stem for path in (ROOT / "cmtree_jax/loops").glob("*.py")}
  assert named[0] == "none" and set(named[1:]) <= files
  assert {"look", "values", "steer", "runs"} <= set(named)
