"""Nothing that comes from elsewhere acts on the screen, or on a figure."""

import pathlib
import unicodedata

import pytest

import cmtree_jax
from cmtree_jax.evaluate.verdict import Row, Verdict
from cmtree_jax.jobs import command
from cmtree_jax.report import figures, guard, screen, selection, tables
from cmtree_jax.report.describe import Document, Favored, Node
from cmtree_jax.report.progress import Reporter
from cmtree_jax.types import UserError
from tests.report.standings import standing

HOSTILE = "\x1b[2J\x1b]0;t\x07\x9b1m\u202eback\u2066\nline [bold]b[/] :sea:$x$"


def _is_safe(told: str) -> bool:
  """Whether no character of it acts on a terminal; lines may end."""
  return all(
    unicodedata.category(one) not in ("Cc", "Cf", "Zl", "Zp")
    for one in told.replace("\n", "")
  )


def _tell_tables():
  tables.show([standing("worse", target_set=HOSTILE, target=HOSTILE)])


def _tell_tree():
  console = screen.console()
  terms = (HOSTILE,)
  node = Node("", "", 1.0, 1.0, 1.0, terms, HOSTILE, HOSTILE)
  console.print(tables.tree([node, node._replace(path="0", times=1.0)]))
  document = Document(HOSTILE, 1.0, HOSTILE)
  console.print(tables.documents(Favored(1.0, 1.0, terms, (document,)), 1.0))


def _tell_selection():
  group = selection.Group(HOSTILE, (1, 1, 1), (1, 1, 1), 1.0)
  one = selection.Example(
    selection.OUT, HOSTILE, HOSTILE, 0.0, HOSTILE, selection.snippet(HOSTILE)
  )
  by = {"source": [group, group]}
  selection.show(
    selection.Selection(group, by, {HOSTILE: 1}, [one], None, None)
  )


def _tell_guard():
  row = Row("natural", 1.0, 0.0, HOSTILE, 0.0, {})
  rows = {"natural": row, "crisp": row._replace(name="crisp")}
  guard.show(Verdict("crisp", HOSTILE, 0.1, rows), (HOSTILE,))


def _tell_progress():
  with Reporter() as reporter:
    reporter.say(HOSTILE)


def _fail(config, workdir, *, overwrite):
  raise UserError(f"{workdir}: {HOSTILE}")


def _tell_error():
  given = ["--config=configs/smoke.py", f"--workdir=\u202e{HOSTILE}"]
  assert command.command("a", "b", _fail, given) == 2


@pytest.mark.parametrize(
  "tell",
  [
    _tell_tables,
    _tell_tree,
    _tell_selection,
    _tell_guard,
    _tell_progress,
    _tell_error,
  ],
)
def test_hostile_text_is_shown_and_does_nothing(tell, capsys):
  tell()
  told = "".join(capsys.readouterr())
  assert _is_safe(told)
  # Neither markup nor an emoji, and the same line goes on; columns may cut it.
  whole = "".join(told.split()).replace("│", "")
  assert "u202eback" in whole and "\\nline" in whole
  if tell is not _tell_tables:
    assert "[bold]b[/]" in whole and ":sea:" in whole


def test_a_figure_of_a_hostile_target_is_drawn_letter_by_letter(tmp_path):
  pytest.importorskip("matplotlib")
  path = tmp_path / "a.svg"
  one = standing("worse", target_set="$x^{$", target="$x^{$")
  figures.draw([one], path)  # as a formula it would raise
  assert "$x^{$" in path.read_text()
  figures.draw([standing("worse", target_set=HOSTILE, target=HOSTILE)], path)
  assert _is_safe(path.read_text())


def test_a_row_of_markdown_stays_one():
  cells = tables.markdown_row(["a|b\nc", "d"])
  assert cells == "| a\\|b\\nc | d |"


def test_there_is_one_console():
  package = pathlib.Path(cmtree_jax.__file__).parent
  users = [
    path.name
    for path in package.rglob("*.py")
    if "rich.console" in path.read_text(encoding="utf-8")
  ]
  assert users == ["screen.py"]
