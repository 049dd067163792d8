"""What reaches a terminal: nothing in it that comes from elsewhere is a command.

Texts, targets and names of files are anybody's. What a terminal would act on, such as
an escape sequence, is shown as Python writes it, and rich takes nothing for markup.
"""

import unicodedata
from collections.abc import Iterable, Iterator

from rich.console import (
  Console,
  ConsoleOptions,
  ConsoleRenderable,
  RenderHook,
)
from rich.segment import Segment

from cmtree_jax.data import mirror

# Letters of Persian and of Indic scripts need them, and they change no order.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
  r"""The text on one line, without a character that a screen would act on.

  Control characters, changes of the direction of writing and ends of lines are
  written as Python writes them; all other characters stay. A folder that stands for
  an address is told as that.

  >>> printable("a\x1b[2Jb\u202ec\nd")
  'a\\x1b[2Jb\\u202ec\\nd'
  >>> printable("\u3042\u00a0\u0663 \U0001f30a [bold] :smile:")
  'あ\xa0٣ 🌊 [bold] :smile:'
  """
  text = mirror.addressed(text)
  if text.isprintable():
    return text
  return "".join(map(_shown, text))


def _shown(character: str) -> str:
  if character.isprintable() or character in _JOINERS:
    return character
  if unicodedata.category(character) == "Zs":  # a blank, however wide
    return character
  return repr(character)[1:-1]


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
  """A console that takes strings as they are; styles are `rich.text.Text`.

  Args:
    stderr: writes there and not to stdout.
    quiet: says nothing.
  """
  made = Console(
    stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False
  )
  made.push_render_hook(_Hook())
  return made


class _Hook(RenderHook):
  """Looks through all that is printed, tables and trees too."""

  def process_renderables(
    self, renderables: list[ConsoleRenderable]
  ) -> list[ConsoleRenderable]:
    return [_Printable(one) for one in renderables]


class _Printable:
  """What would be printed, each piece of text `printable`."""

  def __init__(self, inner: ConsoleRenderable):
    self._inner = inner

  def __rich_console__(
    self, console: Console, options: ConsoleOptions
  ) -> Iterator[Segment]:
    return _pieces(console.render(self._inner, options))


def _pieces(segments: Iterable[Segment]) -> Iterator[Segment]:
  for text, style, control in segments:
    if not control:
      lines = text.split("\n")
      text = "\n".join(map(printable, lines))
    yield Segment(text, style, control)
