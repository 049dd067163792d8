"""The report in Chromium: on phones and screens, light and dark, by mouse and keys."""

import pathlib
from collections.abc import Iterator

import pytest

from cmtree_jax.report.html import escape, report
from tests import browser
from tests.report import workdirs

pytest.importorskip("plotly")

_TREE = "document.querySelector('[data-figure=\"Tree-0\"]')"
_DETAIL = "document.querySelector('[data-detail=\"Tree-0\"]').textContent"


@pytest.fixture(scope="module")
def tab(tmp_path_factory) -> Iterator[browser.Page]:
  with browser.page(tmp_path_factory.mktemp("profile")) as made:
    yield made


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> pathlib.Path:
  """The report of a workdir where all names and texts want to be more than that."""
  folder = tmp_path_factory.mktemp("runs")
  workdirs.make(folder, names=workdirs.HOSTILE)
  return report.write([folder], folder / report.FILE)


def _open(
  tab: browser.Page, page: pathlib.Path, *, width: int, dark: bool = False
) -> None:
  tab.open(page, width=width, dark=dark)
  tab.until("document.documentElement.dataset.drawn === 'yes'")
  # Also of those that plotly draws in its own time.
  tab.until(
    "[...document.querySelectorAll('[data-figure]')].filter(one => one.offsetWidth)"
    ".every(one => one.querySelector('.main-svg'))"
  )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1600])
def test_all_is_drawn_and_fits(width, dark, tab, page, tmp_path):
  del tab.errors[:], tab.requests[:]
  _open(tab, page, width=width, dark=dark)
  assert tab.errors == []
  assert {one.split(":")[0] for one in tab.requests} <= {"file", "data", "blob"}
  assert tab.run("window.hacked") is None
  assert tab.run("document.documentElement.scrollWidth") == width
  # What a click or a key is for is not too small for a finger.
  sizes = tab.run(
    "[...document.querySelectorAll('summary, button:not([hidden])')]"
    ".filter(one => one.offsetWidth && !one.closest('.modebar'))"
    ".map(one => [one.offsetHeight, one.textContent])"
  )
  assert len(sizes) > 10 and min(sizes)[0] >= 24, min(sizes)
  background = tab.run("getComputedStyle(document.body).backgroundColor")
  light = sum(map(int, background[4:-1].split(","))) > 384
  assert light != dark
  tab.screenshot(tmp_path / "page.png")
  assert (tmp_path / "page.png").stat().st_size > 50_000


def _middle_of_leaf(tab: browser.Page, path: str) -> tuple[float, float]:
  """Where the icicle shows a leaf, in the window."""
  tab.run(f"{_TREE}.scrollIntoView({{block: 'center'}})")
  tab.until(f"{_TREE}.querySelectorAll('g.slice').length >= 7")
  box = tab.run(
    f"(() => {{ const found = [...{_TREE}.querySelectorAll('g.slice')]"
    f".find(one => one.__data__.data.data.id === '{path}');"
    "const box = found.getBoundingClientRect();"
    "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
  )
  return box[0], box[1]


@pytest.mark.parametrize("width", [400, 1600])
def test_a_click_on_a_node_shows_its_documents(width, tab, page):
  _open(tab, page, width=width)
  before = tab.run(_DETAIL)
  tab.click(*_middle_of_leaf(tab, "0.1"))
  tab.until(f"{_DETAIL}.includes('0.1 ×0.36')")
  shown = tab.run(_DETAIL)
  assert shown != before and "20 documents." in shown
  texts = tab.run(
    "[...document.querySelectorAll('[data-detail] .document bdi')]"
    ".map(one => one.textContent)"
  )
  assert len(texts) == 5
  assert set(texts) <= set(map(escape.visible, workdirs.HOSTILE))
  assert tab.run("document.querySelectorAll('.node.chosen').length") == 1
  assert tab.errors == [] and tab.run("window.hacked") is None


def test_keys_reach_what_a_click_does(tab, page):
  _open(tab, page, width=1600)
  tab.run("document.querySelector('[data-node=\"Tree-0:0\"] summary').focus()")
  for key, code in (("ArrowDown", 40), ("ArrowDown", 40), ("Enter", 13)):
    tab.press(key, code)
  tab.until(f"{_DETAIL}.includes('0.1 ×0.36')")
  opened = tab.run(
    "[...document.querySelectorAll('.node[open]')].map(one => one.dataset.node)"
  )
  assert opened == ["Tree-0:0.1"]


def test_buttons_change_widths_and_theme(tab, page):
  _open(tab, page, width=1600)
  for name, wanted in (
    ("corpus", [0.25] * 4),
    ("training", [w / (4 * 1.375) for w in workdirs.WEIGHTS]),
  ):
    tab.run(f"document.querySelector('[data-switch={name}]').click()")
    shares = tab.run(f"{_TREE}.data[0].values")
    assert [one for one in shares if one] == pytest.approx(wanted)
  color = "getComputedStyle(document.body).backgroundColor"
  seen = [tab.run(color)]
  for _ in range(2):
    tab.run("document.getElementById('theme').click()")
    seen.append(tab.run(color))
  assert seen[0] == seen[1] != seen[2]
  assert tab.errors == []


# Contrasts of what tiles tell with what is behind it, as WCAG 2.2 computes them.
_CONTRASTS = """(() => {
  const channels = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((one) => {
    const c = one / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  const luminance = (color) => {
    const [r, g, b] = channels(color);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.querySelectorAll('g.slice')].map((one) => {
    const text = one.querySelector('text'), tile = one.querySelector('path');
    if (!text) return 21;
    const [low, high] = [text, tile].map((x) => luminance(getComputedStyle(x).fill))
      .sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  });
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_labels_of_tiles_can_be_read(dark, tab, page):
  _open(tab, page, width=1600, dark=dark)
  tab.until(f"{_TREE}.querySelectorAll('g.slice').length >= 7")
  contrasts = tab.run(_CONTRASTS)
  assert len(contrasts) == 7 and min(contrasts) >= 4.5, contrasts


def _rows_of(tab: browser.Page, selector: str) -> list[int]:
  """How many of these stand in each row."""
  tops = tab.run(
    f"[...document.querySelectorAll('{selector}')]"
    ".map(one => Math.round(one.getBoundingClientRect().top))"
  )
  return [tops.count(one) for one in dict.fromkeys(tops)]


@pytest.mark.parametrize(
  ("jobs", "width", "rows"),
  [(2, 1280, [2]), (3, 1280, [3]), (3, 1000, [1, 1, 1]), (4, 1280, [2, 2])],
)
def test_jobs_stand_in_even_rows(jobs, width, rows, tab, tmp_path):
  names = ("a-target-of-a-name-" * 5, "plain", "x" * 200)
  folder = workdirs.make(tmp_path / ("job-of-a-name-" * 8), names=names)
  made = report.write([folder] * jobs, tmp_path / report.FILE)
  _open(tab, made, width=width)
  assert _rows_of(tab, "main > .beside > div") == rows
  assert tab.run("document.documentElement.scrollWidth") == width
  glance = "document.querySelector('.jobs').parentElement"
  assert tab.run(f"{glance}.scrollWidth <= {glance}.clientWidth")
  cards = ".beside > div:first-child .cards > div"
  assert len(set(_rows_of(tab, cards))) == 1
