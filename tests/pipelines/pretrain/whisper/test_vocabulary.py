"""Laws of the compact vocabulary: text survives encoding, and the softmax equals that of the full vocabulary."""

import pytest
import torch

from pipelines.pretrain.whisper.model import Dims
from pipelines.pretrain.whisper.vocabulary import N_VOCAB, Vocabulary, encode, tokenizer_for


def test_tokens_of_the_subset_have_their_own_rows_and_all_others_share_a_row() -> None:
    ids = encode("the old clock", "en") + encode("老师", "zh")
    vocabulary = Vocabulary(ids)
    assert [vocabulary.ids[row] for row in vocabulary.rows(ids)] == ids
    assert vocabulary.rows(encode("猫", "zh")) == [vocabulary.other] * len(encode("猫", "zh"))
    specials = list(range(tokenizer_for("en").eot, N_VOCAB))
    assert vocabulary.other not in vocabulary.rows(specials)


def test_probabilities_equal_those_of_the_full_vocabulary() -> None:
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
def test_decoding_the_tokens_gives_the_text(language: str, text: str) -> None:
    assert tokenizer_for(language).decode(encode(text, language)).strip() == text


def test_words_are_encoded_by_letters_and_begin_with_their_space() -> None:
    assert [tokenizer_for("en").decode([token]) for token in encode("a cat", "en")] == [" a", " c", "a", "t"]
    assert tokenizer_for("zh").decode(encode("猫", "zh")) == "猫"
    assert encode("", "en") == []


@pytest.mark.parametrize(("language", "text"), TEXTS)
def test_the_letters_of_half_a_minute_fit_into_the_decoder_positions(language: str, text: str) -> None:
    """Each text takes a second or more to say, so nobody says it more than 25 times in 30 s."""
    assert 25 * len(encode(text, language)) <= Dims().text_positions // 2
