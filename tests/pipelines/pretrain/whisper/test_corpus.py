"""Laws of the corpus: every clip has its tokens and phonemes and is in the right pool."""

import numpy as np

from pipelines.pretrain.whisper.corpus import Corpus, Pool
from pipelines.pretrain.whisper.vocabulary import tokenizer_for


def test_a_pool_draws_clips_that_fit_or_any_clip_if_none_fits() -> None:
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


def test_random_words_are_in_a_pool_of_their_own(corpus: Corpus) -> None:
    assert "de" in corpus.synthetic
    for language, pool in corpus.random_words.items():
        rng = np.random.default_rng(0)
        drawn = {pool.draw(10_000, rng) for _ in range(20)}
        assert all(corpus.clips[i].text == "" and corpus.clips[i].language == language for i in drawn)
