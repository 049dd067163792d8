"""docs/methods.md is what the methods say of themselves."""

import pathlib
import subprocess
import sys

import pytest

from cmtree_jax.methods import METHODS, document

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "methods.md"


def test_every_method_is_on_the_page_with_its_options():
  page = document.page()
  for name in METHODS:
    assert f"\n## {name}\n" in page
    assert f"[`{name}`](#{name})" in page
  # Formulae and links of the docstrings are those of Markdown.
  assert "| `gamma` | `1` | $\\gamma$. The share of target rows" in page
  assert "[Data Mixing Laws](https://arxiv.org/abs/2403.16952), 2024" in page
  assert "```math\nw_i = 1\n```\n" in page
  for left in (":math:", ".. math", "`_", ">>>"):
    assert left not in page


@pytest.mark.parametrize(
  ("name", "knows", "acts"),
  [
    ("semdedup", "distribution-agnostic", "before training"),
    ("dsir", "distribution-aware", "before training"),
    ("regmix", "distribution-aware", "before training"),
    ("doremi", "distribution-agnostic", "active during training"),
    ("cmtree", "distribution-aware", "active during training"),
    ("cit", "distribution-aware", "active during training"),
    ("svp", "distribution-agnostic", "before training"),
  ],
)
def test_a_method_has_its_place_in_the_taxonomy(name, knows, acts):
  assert document.taxonomy(METHODS[name].make()) == (knows, acts)
  (row,) = [
    line
    for line in document.page().splitlines()
    if line.startswith(f"| [`{name}`](#{name}) |")
  ]
  assert f"| {knows}, {acts} |" in row


def test_a_method_that_curates_is_active():
  method = METHODS["perplexity"].make()
  assert document.taxonomy(method)[1] == "before training"
  curating = method._replace(curate=lambda facts, number: None)
  assert document.taxonomy(curating)[1] == "active during training"


def test_the_page_is_what_the_command_prints():
  done = subprocess.run(
    [sys.executable, "-m", "cmtree_jax.methods.document"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  command = "python -m cmtree_jax.methods.document > docs/methods.md"
  assert done.stdout == PAGE.read_text(), f"Run {command}"
