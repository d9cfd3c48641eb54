"""Laws of alignment: tokens get their phonemes, and phonemes their frames."""

import pytest
import torch

from pipelines.pretrain.whisper.alignment import align, phonemes_of_tokens


def phonemes_of(pieces: list[bytes], phonemes: str) -> list[str]:
    return [phonemes[first : last + 1] for first, last in phonemes_of_tokens(pieces, phonemes)]


def test_words_are_paired_with_groups_of_phonemes() -> None:
    assert phonemes_of([b" the", b" train", b" to"], "ðə tɹeɪn tə") == ["ðə", "tɹeɪn", "tə"]


def test_pieces_of_a_word_share_its_phonemes_in_order() -> None:
    assert phonemes_of([b" lis", b"bon", b" at"], "lɪsbən æt") == ["lɪs", "bən", "æt"]


def test_phonemes_of_joined_words_are_shared_out_by_length() -> None:
    phoneme_spans = phonemes_of_tokens([b" in", b" front", b" of", b" the"], "ɪn fɹʌnt ʌvðə")
    assert phoneme_spans[0][0] == 0
    assert phoneme_spans[-1][1] == len("ɪn fɹʌnt ʌvðə") - 1
    assert all(a <= b for a, b in phoneme_spans)
    assert [a for a, _ in phoneme_spans] == sorted(a for a, _ in phoneme_spans)


def test_texts_without_spaces_and_split_characters_stay_within_the_phonemes() -> None:
    pieces = ["这".encode(), "历".encode()[:1], "历".encode()[1:], "史".encode()]
    phoneme_spans = phonemes_of_tokens(pieces, "ts.o-5 li5s.i.2")
    assert all(0 <= a <= b < len("ts.o-5 li5s.i.2") for a, b in phoneme_spans)
    assert phoneme_spans[-1][1] == len("ts.o-5 li5s.i.2") - 1


@pytest.fixture
def spoken() -> torch.Tensor:
    """Return log probabilities of 12 frames: blank, 1 1, blank, 2, blank, 2 2, and four blanks."""
    path = [0, 1, 1, 0, 2, 0, 2, 2, 0, 0, 0, 0]
    logits = torch.full((12, 4), -8.0)
    logits[range(12), path] = 8.0
    return logits.log_softmax(-1)


def test_phonemes_begin_at_their_first_frame(spoken: torch.Tensor) -> None:
    begins = align(spoken, torch.tensor([1, 2, 2]))
    assert begins is not None
    assert begins.tolist() == [1, 4, 6, 12]


def test_phonemes_that_do_not_fit_or_are_not_recognised_are_not_aligned(spoken: torch.Tensor) -> None:
    assert align(spoken[:3], torch.tensor([1, 2, 2])) is None
    assert align(spoken, torch.tensor([3, 1, 3])) is None
    assert align(spoken, torch.tensor([], dtype=torch.long)) is None
