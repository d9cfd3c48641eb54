"""The student and its export: openai-whisper reads the file and gets the student's own numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import whisper

from pipelines.pretrain.whisper.batches import Batch, Mixer
from pipelines.pretrain.whisper.corpus import Corpus
from pipelines.pretrain.whisper.model import MARGIN, PLASTIC, Dims, Student, export

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


def test_a_short_window_is_encoded_as_whisper_would_with_fewer_positions(student: Student) -> None:
    mel = torch.randn(1, 80, 3_000)
    with torch.no_grad():
        torch.testing.assert_close(student.encode(mel), student.whisper.encoder(mel))
        assert student.encode(mel[:, :, :500]).shape == (1, 250, 32)


def told(batch: Batch, frames: int) -> torch.Tensor:
    """A certain phoneme head: every phoneme of a window is said for an equal time, one after the other."""
    rows = []
    for length, phonemes in zip(batch.frames, torch.split(batch.phonemes, batch.phoneme_lengths.tolist()), strict=True):
        at = torch.arange(int(length)) * (2 * len(phonemes)) // int(length)
        path = torch.zeros(frames, dtype=torch.long)
        if len(phonemes):
            # A blank before each: equal neighbours are two.
            path[: len(at)] = torch.where(at % 2 == 1, phonemes[at // 2], 0)
        rows.append(path)
    return torch.nn.functional.one_hot(torch.stack(rows), int(batch.phonemes.max()) + 1).mul(20.0).log_softmax(-1)


@pytest.fixture
def batch(corpus: Corpus) -> Batch:
    return Mixer(corpus, 0, 100, 2_000).batch(20)


def test_the_guided_decoder_is_whispers_decoder(student: Student, batch: Batch) -> None:
    with torch.no_grad():
        features = student.encode(batch.mel)
        heard = student.hear(batch, told(batch, features.shape[1]))
        decoded, misses = student.decode(batch, features, heard)
        logits = decoded @ student.whisper.decoder.token_embedding.weight.T
        torch.testing.assert_close(logits, student.whisper.decoder(batch.tokens, features))
    assert misses > 0


def test_tokens_are_heard_one_after_the_other(student: Student, batch: Batch) -> None:
    heard = student.hear(batch, told(batch, batch.mel.shape[2] // 2))
    told_something = batch.places[..., 0] >= 0
    assert told_something.any()
    aligned = heard.flatten(1).any(1)
    assert aligned.any()
    for row in torch.nonzero(aligned)[:, 0]:
        assert torch.equal(heard[row].any(-1), told_something[row])
        starts = heard[row][told_something[row]].int().argmax(-1)
        assert (starts.diff() >= 0).all()
        assert not heard[row][:, batch.frames[row] + MARGIN :].any()


def test_a_phoneme_head_that_knows_nothing_guides_nobody(student: Student, batch: Batch) -> None:
    assert not student.hear(batch, torch.zeros(len(batch.mel), 250, 99).log_softmax(-1)).any()


def test_attention_that_is_told_where_to_listen_misses_less(student: Student, batch: Batch) -> None:
    features = student.encode(batch.mel).detach()
    heard = student.hear(batch, told(batch, features.shape[1]))
    optimiser = torch.optim.Adam(student.whisper.decoder.parameters(), lr=1e-2)
    first = student.decode(batch, features, heard)[1]
    for _ in range(20):
        optimiser.zero_grad()
        student.decode(batch, features, heard)[1].backward()
        optimiser.step()
    assert student.decode(batch, features, heard)[1] < 0.8 * first


def test_only_the_lower_layers_of_an_encoder_stand_still(student: Student, batch: Batch) -> None:
    student.learn_to_listen(False)
    student(batch).text.backward()
    encoder = student.whisper.encoder
    lower = [encoder.conv1, encoder.conv2, *list(encoder.blocks)[:-PLASTIC]]
    assert all(weight.grad is None for part in lower for weight in part.parameters())
    for part in (*list(encoder.blocks)[-PLASTIC:], encoder.ln_post, student.whisper.decoder):
        assert all(weight.grad is not None for weight in part.parameters())


def test_whisper_reads_the_export_and_gets_the_students_numbers(student: Student, tmp_path: Path) -> None:
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


def test_equal_weights_are_equal_files(student: Student, tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        export(student, DIMS, tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
