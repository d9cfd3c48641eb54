"""Laws of the student and its export: openai-whisper loads the file and computes the student's outputs."""

from pathlib import Path

import numpy as np
import pytest
import torch
import whisper

from pipelines.pretrain.whisper.batches import Batch, Mixer
from pipelines.pretrain.whisper.corpus import Corpus
from pipelines.pretrain.whisper.model import ADAPTED_LAYERS, ALIGNMENT_MARGIN, Dims, Student, export

DIMS = Dims(width=32, heads=2, encoder_layers=3, decoder_layers=1)


@pytest.fixture
def student(corpus: Corpus) -> Student:
    torch.manual_seed(0)
    return Student(DIMS, corpus.vocabulary, len(corpus.symbols)).eval()


def test_losses_are_finite_and_reach_every_weight(student: Student, corpus: Corpus) -> None:
    losses = student(Mixer(corpus, 0, 100, 2_000).batch(50))
    total = losses.text + losses.ctc + losses.language + losses.attention
    assert torch.isfinite(total)
    total.backward()  # type: ignore[no-untyped-call]
    untouched = [name for name, weight in student.named_parameters() if weight.grad is None]
    assert untouched == []


def test_a_short_window_is_encoded_with_the_first_positions_of_whisper(student: Student) -> None:
    mel = torch.randn(1, 80, 3_000)
    with torch.no_grad():
        torch.testing.assert_close(student.encode(mel), student.whisper.encoder(mel))
        assert student.encode(mel[:, :, :500]).shape == (1, 250, 32)


def certain_log_probs(batch: Batch, frames: int) -> torch.Tensor:
    """Return the output of a certain phoneme head: all phonemes of a window follow one another with equal lengths."""
    rows = []
    for length, phonemes in zip(batch.frames, torch.split(batch.phonemes, batch.phoneme_lengths.tolist()), strict=True):
        at = torch.arange(int(length)) * (2 * len(phonemes)) // int(length)
        path = torch.zeros(frames, dtype=torch.long)
        if len(phonemes):
            # A blank before each phoneme separates equal neighbours.
            path[: len(at)] = torch.where(at % 2 == 1, phonemes[at // 2], 0)
        rows.append(path)
    return torch.nn.functional.one_hot(torch.stack(rows), int(batch.phonemes.max()) + 1).mul(20.0).log_softmax(-1)


@pytest.fixture
def batch(corpus: Corpus) -> Batch:
    return Mixer(corpus, 0, 100, 2_000).batch(20)


def test_the_guided_decoder_is_whispers_decoder(student: Student, batch: Batch) -> None:
    with torch.no_grad():
        features = student.encode(batch.mel)
        token_frames = student.token_frames(batch, certain_log_probs(batch, features.shape[1]))
        decoded, attention_loss = student.decode(batch, features, token_frames)
        logits = decoded @ student.whisper.decoder.token_embedding.weight.T
        torch.testing.assert_close(logits, student.whisper.decoder(batch.tokens, features))
    assert attention_loss > 0


def test_frames_of_tokens_follow_one_another(student: Student, batch: Batch) -> None:
    token_frames = student.token_frames(batch, certain_log_probs(batch, batch.mel.shape[2] // 2))
    has_phonemes = batch.phoneme_spans[..., 0] >= 0
    assert has_phonemes.any()
    aligned = token_frames.flatten(1).any(1)
    assert aligned.any()
    for row in torch.nonzero(aligned)[:, 0]:
        assert torch.equal(token_frames[row].any(-1), has_phonemes[row])
        starts = token_frames[row][has_phonemes[row]].int().argmax(-1)
        assert (starts.diff() >= 0).all()
        assert not token_frames[row][:, batch.frames[row] + ALIGNMENT_MARGIN :].any()


def test_an_uncertain_phoneme_head_gives_no_frames(student: Student, batch: Batch) -> None:
    assert not student.token_frames(batch, torch.zeros(len(batch.mel), 250, 99).log_softmax(-1)).any()


def test_the_attention_loss_falls_in_training(student: Student, batch: Batch) -> None:
    features = student.encode(batch.mel).detach()
    token_frames = student.token_frames(batch, certain_log_probs(batch, features.shape[1]))
    optimiser = torch.optim.Adam(student.whisper.decoder.parameters(), lr=1e-2)
    first = student.decode(batch, features, token_frames)[1]
    for _ in range(20):
        optimiser.zero_grad()
        student.decode(batch, features, token_frames)[1].backward()
        optimiser.step()
    assert student.decode(batch, features, token_frames)[1] < 0.8 * first


def test_only_the_lower_layers_of_the_encoder_are_frozen(student: Student, batch: Batch) -> None:
    student.train_lower_encoder(False)
    student(batch).text.backward()
    encoder = student.whisper.encoder
    lower = [encoder.conv1, encoder.conv2, *list(encoder.blocks)[:-ADAPTED_LAYERS]]
    assert all(weight.grad is None for part in lower for weight in part.parameters())
    for part in (*list(encoder.blocks)[-ADAPTED_LAYERS:], encoder.ln_post, student.whisper.decoder):
        assert all(weight.grad is not None for weight in part.parameters())


def test_whisper_loads_the_export_and_computes_the_students_outputs(student: Student, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    export(student, DIMS, path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
    loaded = whisper.load_model(str(path), device="cpu")
    assert loaded.is_multilingual
    student.whisper.load_state_dict({k: v.half().float() for k, v in student.whisper.state_dict().items()})
    mel, ids = torch.randn(1, 80, 3_000), student.vocabulary.ids[-1_700:-1_690]
    with torch.no_grad():
        ours = student.whisper(mel, torch.tensor([student.vocabulary.rows(ids)]))
        theirs = loaded(mel, torch.tensor([ids]))
    torch.testing.assert_close(theirs[..., student.vocabulary.ids], ours[..., :-1], atol=1e-4, rtol=1e-4)


def test_whisper_decodes_with_the_export(student: Student, tmp_path: Path) -> None:
    export(student, DIMS, tmp_path / "model.pt")
    loaded = whisper.load_model(str(tmp_path / "model.pt"), device="cpu")
    audio = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio))[None]
    _, probabilities = loaded.detect_language(mel)
    assert sum(probabilities[0].values()) == pytest.approx(1.0, abs=1e-3)
    options = whisper.DecodingOptions(language="en", without_timestamps=True, fp16=False, sample_len=3)
    assert isinstance(loaded.decode(mel, options)[0].text, str)


def test_equal_weights_give_equal_files(student: Student, tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        export(student, DIMS, tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
