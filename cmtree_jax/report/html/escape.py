r"""Text that others wrote, made safe to show: in HTML, in a script, in a figure.

Documents, names of sources and of targets, settings and paths may hold anything. What
would be markup is escaped; what no reader can see but what moves or hides text (escape
codes of terminals, marks that turn the direction of writing) is shown as Python has it.
"""

import html
import json
import math
import re
from typing import Any

from cmtree_jax.report import screen


def visible(text: str) -> str:
  r"""The text with everything that cannot be seen shown as Python writes it.

  >>> print(visible("a\x1b[31mb\u202ec"))
  a\x1b[31mb\u202ec
  """
  lines = str(text).replace("\r\n", "\n").replace("\t", "  ").split("\n")
  return "\n".join(map(screen.printable, lines))


def text(of_others: str) -> str:
  """As content of an element, or as the value of an attribute in quotes.

  >>> text('<b onclick="f()">')
  '&lt;b onclick=&quot;f()&quot;&gt;'
  """
  return html.escape(visible(of_others))


def label(of_others: str) -> str:
  """As a label in a figure: plotly reads some markup there.

  >>> label("<a href='javascript:f()'>x</a>")
  "&lt;a href='javascript:f()'&gt;x&lt;/a&gt;"
  """
  return html.escape(visible(of_others), quote=False)


def name(of_others: str) -> str:
  """As a name in a figure, cut off where a narrow screen has no room for it.

  >>> name("x" * 40)
  'xxxxxxxxxxxxxxxxxxxxxxxxx…'
  """
  cut = of_others if len(of_others) <= _NAME else f"{of_others[: _NAME - 1]}…"
  return label(cut)


_NAME = 26  # characters


def script_json(value: Any) -> str:
  r"""JSON that can stand in a script element; what is not a number becomes null.

  >>> script_json({"a": "</script>", "b": [float("nan"), 1.5]})
  '{"a":"\\u003c/script\\u003e","b":[null,1.5]}'
  """
  written = json.dumps(
    _finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False
  )
  for sign in "<>\u2028\u2029":
    written = written.replace(sign, f"\\u{ord(sign):04x}")
  return written


def identifier(of_others: str) -> str:
  """As an identifier: letters, digits and hyphens, by which no two are confused.

  >>> identifier("2.0/x"), identifier("2-0")
  ('2.0_2f_x', '2-0')
  """
  return re.sub(
    r"[^A-Za-z0-9.\-]", lambda found: f"_{ord(found[0]):x}_", of_others
  )


def _finite(value: Any) -> Any:
  if isinstance(value, float) and not math.isfinite(value):
    return None
  if isinstance(value, dict):
    return {key: _finite(one) for key, one in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(one) for one in value]
  return value
