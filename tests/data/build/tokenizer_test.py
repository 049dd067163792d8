"""Tokenizers lose nothing, are equal for equal texts, and are trained once."""

import pathlib

import numpy as np
import pytest

from cmtree_jax.data.build import tokenizer, workers
from cmtree_jax.types import UserError

NASTY = [
  "",
  "\n",
  "\n\n\n",
  " leading",
  "   three leading,  two inside, trailing   ",
  "tab\tcarriage\r\nvertical\x0b\x0c\x85\u2028line ends",
  "nul\x00 and \x01 control \x7f",
  "\ufeffbyte order mark, zero width\u200b, no-break\u00a0, wide\u3000space",
  "\u2581the symbol \u2581\u2581 SentencePiece writes for spaces\u2581",
  "\u2585 \ufffd \uffff \U0010ffff",
  "<s></s><pad><unk><0x41> ⁇ [PAD]",
  "e\u0301 é ﬁ ① ﷺ ２",
  "ᚠᛇᚻ ᠮᠣᠩ ꦗꦮ 𐍈𒀀 日本語 한국어 עברית हिन्दी",
  "😀👨\u200d👩\u200d👧 🇳🇱",
  "def f(x):\n    return x  # four spaces\n",
]
CORPUS = [
  f"Document {i} tells of {i * i} foxes.\n  They jump over {i % 7} dogs.\n"
  for i in range(300)
] + ["Il était une fois à l'été.", "Добрый день, мир."]


@pytest.fixture(scope="module")
def trained():
  return tokenizer.train(CORPUS, vocab_size=400)


@pytest.fixture(params=["bytes", "bpe"])
def each(request, trained):
  return trained if request.param == "bpe" else tokenizer.ByteTokenizer()


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_decoding_gives_back_every_text(each, text):
  (ids,) = each.encode_batch([text])
  assert each.decode(ids) == text
  assert each.decode(ids.tolist()) == text


def test_decoding_gives_back_every_character(each):
  # Planes 4 to 16 hold no characters but private ones and tags.
  points = [c for c in range(0x40000) if not 0xD800 <= c < 0xE000]
  texts = ["".join(map(chr, points[i::1000])) for i in range(1000)]
  decoded = [each.decode(ids) for ids in each.encode_batch(texts)]
  assert decoded == texts


def test_ids_are_below_the_vocabulary_and_never_padding_or_end(each):
  ids = np.concatenate(each.encode_batch(NASTY + CORPUS))
  assert ids.dtype == np.int32
  assert ids.min() > tokenizer.EOS_ID
  assert ids.max() < each.vocab_size


def test_padding_and_ends_decode_to_nothing(each):
  (ids,) = each.encode_batch(["two dogs"])
  pad, end = tokenizer.PAD_ID, tokenizer.EOS_ID
  framed = np.concatenate([[pad], ids, [end, pad, pad]])
  assert each.decode(framed) == "two dogs"


def test_a_batch_is_encoded_text_by_text(each, monkeypatch):
  monkeypatch.setattr(tokenizer, "_CHUNK", 4)
  batch = each.encode_batch(NASTY)
  for text, ids in zip(NASTY, batch, strict=True):
    np.testing.assert_array_equal(ids, each.encode_batch([text])[0])


@pytest.mark.parametrize(("in_worker", "wanted"), [(True, 1), (False, 7)])
def test_worker_processes_have_one_thread_each(
  trained, monkeypatch, in_worker, wanted
):
  threads = []

  class Processor:
    def encode(self, texts, num_threads):
      threads.append(num_threads)
      return [[] for _ in texts]

  monkeypatch.setattr(trained, "_processor", Processor())
  monkeypatch.setattr(workers, "num_cores", lambda: 7)
  parent = object() if in_worker else None
  monkeypatch.setattr(
    tokenizer.multiprocessing, "parent_process", lambda: parent
  )
  trained.encode_batch(["a"])
  assert threads == [wanted]


def test_bytes_make_an_equal_tokenizer(each):
  again = type(each).from_bytes(each.to_bytes())
  assert again.digest == each.digest
  assert again.vocab_size == each.vocab_size
  np.testing.assert_array_equal(
    np.concatenate(again.encode_batch(CORPUS)),
    np.concatenate(each.encode_batch(CORPUS)),
  )


def test_training_learns_words_of_the_corpus(trained):
  (ids,) = trained.encode_batch(["Document tells of foxes"])
  assert trained.vocab_size == 400
  assert len(ids) <= 6


def test_a_small_corpus_gets_a_small_vocabulary():
  assert tokenizer.train(["ab"], vocab_size=1000).vocab_size < 270


def test_many_scripts_fit_a_small_vocabulary():
  scripts = "".join(map(chr, range(0x4E00, 0x5E00)))  # 4096 ideographs
  model = tokenizer.train([scripts, *CORPUS], vocab_size=400)
  assert model.vocab_size == 400
  (ids,) = model.encode_batch(["Document tells of foxes"])
  assert len(ids) <= 12  # pieces remain for words


def test_lines_hold_everything_and_none_is_too_long_for_the_trainer():
  text = "日本語" * 2000 + "\u2585" + "x" * 3000 + "\n"
  lines = tokenizer._training_lines([text], vocab_size=400)
  # And a space, which the text has not.
  assert "".join(lines) == text.replace("\u2585", "").replace("\n", "") + " "
  assert max(len(line.encode()) for line in lines) <= 4192


@pytest.mark.parametrize("filler", ["日" * 5000, "\0", "\u2581", "\u2585"])
def test_text_beside_what_the_trainer_drops_is_learned(filler):
  words = "splendid " * 20
  model = tokenizer.train([f"{words}{filler}{words}"], vocab_size=400)
  assert len(model.encode_batch(["splendid"])[0]) == 1


# Scripts and data in which spaces are rare or absent.
SPACELESS = {
  "Chinese": ["".join(chr(0x4E00 + i * i % 400) for i in range(3000))] * 5,
  "one space in 5,000": ["水" * 2500 + " " + "火" * 2500] * 5,
  "Thai": ["ภาษาไทยเขียนติดกันโดยไม่เว้นวรรค" * 40],
  "DNA": ["ACGTTGCA" * 400],
  "base64": ["QmFzZTY0IGlzIG5vdCB0ZXh0" * 100],
  "a lone symbol of spaces": ["a\u2581b" * 300],
}


@pytest.mark.parametrize("texts", SPACELESS.values(), ids=SPACELESS)
def test_spaces_come_back_where_they_are_rare(texts):
  model = tokenizer.train(texts, vocab_size=700)
  for text in [*NASTY, *CORPUS[:3], *texts[:1]]:
    (ids,) = model.encode_batch([text])
    assert model.decode(ids) == text
  space, symbol = model.encode_batch([" ", "\u2581"])
  assert len(space) == 1
  assert space.tolist() != symbol.tolist()


def load(folder: pathlib.Path, texts=CORPUS, vocab_size=300):
  return tokenizer.load_or_train(
    texts, tokenizer.Plan("bpe", vocab_size), cache_dir=folder
  )


def test_equal_texts_in_any_order_give_the_same_model(tmp_path):
  one = load(tmp_path / "one")
  two = load(tmp_path / "two", CORPUS[::-1])
  assert one.to_bytes() == two.to_bytes()


def test_the_second_call_reads_the_first_ones_file(tmp_path, monkeypatch):
  one = load(tmp_path)
  monkeypatch.setattr(tokenizer, "train", None)  # calling it would fail
  assert load(tmp_path).digest == one.digest
  assert len(list(tmp_path.iterdir())) == 1  # and no temporary file


def test_other_texts_or_sizes_are_other_models(tmp_path):
  models = [
    load(tmp_path),
    load(tmp_path, [*CORPUS, "More words."]),
    load(tmp_path, vocab_size=310),
    load(tmp_path, ["ab"] * 4),
    load(tmp_path, ["abab"] * 2),
  ]
  assert len(list(tmp_path.iterdir())) == 5
  assert models[2].vocab_size == 310


def test_the_sample_is_bounded_and_needs_no_order():
  sample = tokenizer.sample_texts(CORPUS, max_bytes=2000)
  size = sum(len(text.encode()) for text in sample)
  assert size == 2000
  assert sample == tokenizer.sample_texts(CORPUS[::-1], max_bytes=2000)
  assert set(sample[:-1]) < set(CORPUS)  # the last may be cut


def test_one_long_text_is_cut():
  assert tokenizer.sample_texts(["x" * 100], max_bytes=30) == ["x" * 30]


@pytest.mark.parametrize(
  ("texts", "vocab_size", "message"),
  [
    (CORPUS, 100, "at least 300"),
    ([], 400, "0 texts"),
    (["\n", ""], 400, "2 texts"),
    (["half \ud83d pair"], 400, "Text 0 .* character 5"),
  ],
)
def test_what_cannot_be_learned_from_is_told(texts, vocab_size, message):
  with pytest.raises(UserError, match=message):
    tokenizer.train(texts, vocab_size=vocab_size)


def test_half_a_surrogate_pair_is_told(each):
  with pytest.raises(UserError, match="Text 1 "):
    each.encode_batch(["whole", "half \ud83d"])


def test_an_unknown_kind_is_told_with_the_known(tmp_path):
  with pytest.raises(UserError, match=r"'word'.*bpe, bytes"):
    plan = tokenizer.Plan("word", vocab_size=9)
    tokenizer.load_or_train(CORPUS, plan, cache_dir=tmp_path)
