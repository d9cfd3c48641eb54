"""Batches: pure functions of the step, with targets that say what the windows hold."""

import torch

from pipelines.pretrain.whisper.batches import IGNORE, LANGUAGES, WINDOW_FRAMES, Mixer
from pipelines.pretrain.whisper.corpus import Corpus
from pipelines.pretrain.whisper.vocabulary import tokenizer_for


def test_a_step_decides_its_batch_whatever_was_drawn_before(corpus: Corpus) -> None:
    fresh, used = (Mixer(corpus, 0, 100, 1_200) for _ in range(2))
    for step in (90, 3, 40):
        used.batch(step)
    for name, value in vars(fresh.batch(40)).items():
        assert torch.equal(value, getattr(used.batch(40), name)), name
    assert not torch.equal(fresh.batch(40).mel, fresh.batch(39).mel[:, :, : fresh.batch(40).mel.shape[2]])


def test_sequences_are_whispers_and_say_the_language(corpus: Corpus) -> None:
    mixer = Mixer(corpus, 0, 100, 2_000)
    ids = corpus.vocabulary.ids
    seen = set()
    for step in range(0, 100, 5):
        batch = mixer.batch(step)
        assert torch.isfinite(batch.mel).all()
        assert (batch.frames <= batch.mel.shape[2] // 2).all()
        assert batch.phoneme_lengths.sum() == len(batch.phonemes)
        for tokens, targets, language in zip(batch.tokens, batch.targets, batch.languages, strict=True):
            tokenizer = tokenizer_for("en")
            assert ids[tokens[0]] == tokenizer.sot
            first = ids[targets[0]]
            if language == len(LANGUAGES):
                assert first == tokenizer.no_speech
            else:
                assert first == tokenizer.to_language_token(LANGUAGES[language])
            asked = [ids[row] for row in targets if row != IGNORE]
            seen.add("text" if len(asked) > 4 else "no text")
            if len(asked) > 2:
                assert asked[-1] == tokenizer.eot
    assert "text" in seen


def test_windows_reach_whispers_thirty_seconds_at_the_end_only(corpus: Corpus) -> None:
    mixer = Mixer(corpus, 0, 1_000, 1_200)
    lengths = [mixer.window_frames(step) for step in range(1_000)]
    assert max(lengths[:400]) < WINDOW_FRAMES
    assert 0.25 < lengths[850:].count(WINDOW_FRAMES) / 150 < 0.55
    assert all(length % 2 == 0 for length in lengths)
