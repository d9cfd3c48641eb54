"""The compact vocabulary: nothing is lost on the way in, and the softmax is that of the full one."""

import pytest
import torch

from pipelines.pretrain.whisper.model import Dims
from pipelines.pretrain.whisper.vocabulary import N_VOCAB, Vocabulary, encode, tokenizer_for


def test_rows_are_one_to_one_on_the_subset_and_one_for_all_others() -> None:
    ids = encode("the old clock", "en") + encode("老师", "zh")
    vocabulary = Vocabulary(ids)
    assert [vocabulary.ids[row] for row in vocabulary.rows(ids)] == ids
    assert vocabulary.rows(encode("猫", "zh")) == [vocabulary.other] * len(encode("猫", "zh"))
    specials = list(range(tokenizer_for("en").eot, N_VOCAB))
    assert vocabulary.other not in vocabulary.rows(specials)


def test_probabilities_equal_those_of_the_expanded_model() -> None:
    vocabulary = Vocabulary(encode("the old clock", "en"))
    generator = torch.Generator().manual_seed(0)
    embedding, x = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (vocabulary.size, 3))
    full = (x @ vocabulary.expand(embedding).T).softmax(-1)
    logits = x @ embedding.T
    logits[:, vocabulary.other] += vocabulary.other_bias
    compact = logits.softmax(-1)
    torch.testing.assert_close(compact[:, : vocabulary.other], full[:, vocabulary.ids])
    torch.testing.assert_close(compact[:, vocabulary.other], 1 - full[:, vocabulary.ids].sum(-1))


TEXTS = [
    ("en", "the old clock it's"),
    ("zh", "老师在看书"),
    ("ru", "мальчик читает"),
    ("ko", "책을 봅니다"),
    ("fr", "où êtes"),
]


@pytest.mark.parametrize(("language", "text"), TEXTS)
def test_text_comes_back_from_its_tokens(language: str, text: str) -> None:
    assert tokenizer_for(language).decode(encode(text, language)).strip() == text


def test_words_are_spelled_and_begin_with_their_space_where_they_stand_apart() -> None:
    assert [tokenizer_for("en").decode([token]) for token in encode("a cat", "en")] == [" a", " c", "a", "t"]
    assert tokenizer_for("zh").decode(encode("猫", "zh")) == "猫"
    assert encode("", "en") == []


@pytest.mark.parametrize(("language", "text"), TEXTS)
def test_half_a_minute_of_speech_fits_what_the_model_writes_a_window(language: str, text: str) -> None:
    """Nobody says these, of a second or more each, more than 25 times in 30 s."""
    assert 25 * len(encode(text, language)) <= Dims().text_positions // 2
