"""The corpus: every clip can be found, by group and by length."""

import numpy as np

from pipelines.pretrain.whisper.corpus import Corpus, Pool
from pipelines.pretrain.whisper.vocabulary import tokenizer_for


def test_a_pool_draws_what_fits_and_anything_if_nothing_does() -> None:
    pool = Pool([(7, 100), (8, 200), (9, 300)])
    rng = np.random.default_rng(0)
    assert {pool.draw(250, rng) for _ in range(50)} == {7, 8}
    assert {pool.draw(50, rng) for _ in range(50)} == {7, 8, 9}


def test_tokens_and_phonemes_of_a_clip_spell_it(corpus: Corpus) -> None:
    for i, clip in enumerate(corpus.clips):
        text = tokenizer_for(clip.language).decode(corpus.tokens[i])
        assert text.strip() == clip.text
        assert "".join(corpus.symbols[number - 1] for number in corpus.phonemes[i]) == clip.phonemes
        assert len(corpus.mel(i)) == clip.frames
    assert corpus.symbols[corpus.space - 1] == " "


def test_words_that_are_not_to_be_written_keep_to_themselves(corpus: Corpus) -> None:
    assert "de" in corpus.made
    for language, pool in corpus.wide.items():
        rng = np.random.default_rng(0)
        drawn = {pool.draw(10_000, rng) for _ in range(20)}
        assert all(corpus.clips[i].text == "" and corpus.clips[i].language == language for i in drawn)
