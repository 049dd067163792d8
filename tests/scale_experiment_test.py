"""The experiment on large corpora: what it writes, watches and shows."""

import io
import sys

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from experiments import scale


def test_documents_are_numbered_and_a_stopped_writing_goes_on(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(scale, "_IN_FILE", 40)
  scale.write(tmp_path / "whole", 100)
  files = sorted((tmp_path / "whole").iterdir())
  assert [len(pq.read_table(file)) for file in files] == [40, 40, 20]
  texts = [text for file in files for text in pq.read_table(file)["text"]]
  ids = [i.as_py() for file in files for i in pq.read_table(file)["id"]]
  assert len(set(texts)) == 100
  assert ids == [f"{n:010d}" for n in range(100)]
  assert all(20 <= len(text.as_py().split()) <= 60 for text in texts)
  (files[1]).unlink()
  kept = files[0].stat().st_mtime_ns
  scale.write(tmp_path / "whole", 100)
  assert files[0].stat().st_mtime_ns == kept
  assert [t for f in files for t in pq.read_table(f)["text"]] == texts


def test_memory_is_that_of_the_job_and_of_its_children(capsys):
  code = """
import subprocess, sys, time
held = bytearray(80_000_000)
child = "held = bytearray(150_000_000); import time; time.sleep(1)"
one = subprocess.Popen([sys.executable, "-c", child])
print("Read 3 documents", flush=True)
one.wait()
print("Tokenized and embedded 3 documents", file=sys.stderr, flush=True)
"""
  seconds, memory = scale._watched([sys.executable, "-c", code])
  assert 80e6 < memory.main < 150e6
  assert 230e6 < memory.all < 400e6
  assert seconds["read"] < seconds["prepare"] <= seconds["end"]
  assert seconds["prepare"] - seconds["read"] > 0.8
  assert "Read 3" in capsys.readouterr().out


def test_a_job_that_fails_ends_the_experiment():
  with pytest.raises(SystemExit) as caught:
    scale._watched([sys.executable, "-c", "raise SystemExit(2)"])
  assert caught.value.code == 2


def test_the_table_says_what_one_more_document_costs():
  rows = [
    scale.Row(100, 8.0, 10.0, 1.0, 4.0, 5.0, 10_000, 20_000, 7.0, 3.0),
    scale.Row(1100, 9.0, 30.0, 1.0, 4.0, 25.0, 60_000, 20_000, 7.0, 3.0),
  ]
  text = io.StringIO()
  Console(width=200, file=text).print(scale.table(rows))
  (line,) = (
    line for line in text.getvalue().splitlines() if "each more" in line
  )
  assert line.split("│")[3].strip() == "0.02"
  assert line.split("│")[7].strip() == "50.0"
