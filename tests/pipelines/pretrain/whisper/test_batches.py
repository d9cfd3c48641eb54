"""Laws of batches: they depend on the step alone, and the targets agree with the windows."""

import torch

from pipelines.pretrain.whisper.batches import CURRICULUM, IGNORE, LANGUAGES, PROMPT, WINDOW_FRAMES, Mixer
from pipelines.pretrain.whisper.corpus import Corpus
from pipelines.pretrain.whisper.vocabulary import tokenizer_for


def test_a_batch_depends_on_its_step_alone(corpus: Corpus) -> None:
    fresh, used = (Mixer(corpus, 0, 100, 1_200) for _ in range(2))
    for step in (90, 3, 40):
        used.batch(step)
    for name, value in vars(fresh.batch(40)).items():
        assert torch.equal(value, getattr(used.batch(40), name)), name
    assert not torch.equal(fresh.batch(40).mel, fresh.batch(39).mel[:, :, : fresh.batch(40).mel.shape[2]])


def test_sequences_are_those_of_whisper_and_name_the_language(corpus: Corpus) -> None:
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
            targeted = [ids[row] for row in targets if row != IGNORE]
            seen.add("text" if len(targeted) > 4 else "no text")
            if len(targeted) > 2:
                assert targeted[-1] == tokenizer.eot
    assert "text" in seen


def test_lengths_of_windows_follow_the_shares_of_their_phase(corpus: Corpus) -> None:
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


def test_phoneme_spans_lead_from_a_token_to_its_phonemes(corpus: Corpus) -> None:
    batch = Mixer(corpus, 0, 100, 2_000).batch(20)
    assert batch.phoneme_spans.shape == (*batch.targets.shape, 2)
    texts = 0
    for targets, phoneme_spans, length in zip(batch.targets, batch.phoneme_spans, batch.phoneme_lengths, strict=True):
        first, last = phoneme_spans.unbind(-1)
        has_phonemes = first >= 0
        targeted = targets != IGNORE
        assert (last[has_phonemes] < length).all()
        assert (first[has_phonemes] <= last[has_phonemes]).all()
        assert not (has_phonemes & ~targeted).any()
        if targeted.sum() > PROMPT + 1:
            texts += 1
            # Every token of the text has phonemes; the prompt, the end and a time stamp before the end have none.
            assert targeted.sum() - PROMPT - has_phonemes.sum() in (1, 2)
            assert not has_phonemes[:PROMPT].any()
            assert first[has_phonemes][0] == 0
            assert last[has_phonemes][-1] == length - 1
    assert texts
