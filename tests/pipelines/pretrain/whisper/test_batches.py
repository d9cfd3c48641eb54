"""Batches: pure functions of the step, with targets that say what the windows hold."""

import torch

from pipelines.pretrain.whisper.batches import CURRICULUM, IGNORE, LANGUAGES, PROMPT, WINDOW_FRAMES, Mixer
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


def test_windows_are_as_long_as_their_phase_says(corpus: Corpus) -> None:
    mixer = Mixer(corpus, 0, 1_000, 1_200)
    lengths = [mixer.window_frames(step) for step in range(1_000)]
    begin = 0
    for phase in CURRICULUM:
        end = round(phase.until * 1_000)
        drawn = lengths[begin:end]
        assert set(drawn) == set(phase.windows)
        for frames, share in phase.windows.items():
            assert abs(drawn.count(frames) / len(drawn) - share) < 4 * (share * (1 - share) / len(drawn)) ** 0.5
        begin = end
    assert begin == 1_000
    assert max(lengths[:400]) < WINDOW_FRAMES
    assert all(length % 2 == 0 for length in lengths)


def test_places_lead_from_a_token_to_its_phonemes(corpus: Corpus) -> None:
    batch = Mixer(corpus, 0, 100, 2_000).batch(20)
    assert batch.places.shape == (*batch.targets.shape, 2)
    texts = 0
    for targets, places, length in zip(batch.targets, batch.places, batch.phoneme_lengths, strict=True):
        first, last = places.unbind(-1)
        said = first >= 0
        asked = targets != IGNORE
        assert (last[said] < length).all()
        assert (first[said] <= last[said]).all()
        assert not (said & ~asked).any()
        if asked.sum() > PROMPT + 1:
            texts += 1
            # Every token of the text, and neither the prompt nor the end, before which the time may be asked for.
            assert asked.sum() - PROMPT - said.sum() in (1, 2)
            assert not said[:PROMPT].any()
            assert first[said][0] == 0
            assert last[said][-1] == length - 1
    assert texts
