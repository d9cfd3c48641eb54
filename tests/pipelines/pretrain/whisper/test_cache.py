"""Laws of the cache of clips: parts are whole and rendered once, real recordings included."""

import json
from pathlib import Path

import numpy as np
import soundfile

from pipelines.pretrain.whisper import cache
from pipelines.pretrain.whisper.corpus import Corpus


def test_existing_parts_are_kept_and_missing_parts_are_rendered_again(clips: Path) -> None:
    (listing,) = clips.glob("*.json")
    mels = listing.with_suffix(".npy")
    before, untouched = mels.read_bytes(), mels.stat().st_mtime_ns
    cache.render(clips, None, 0, 1, {"en": 6, "zh": 6, "de": 6})
    assert mels.stat().st_mtime_ns == untouched
    listing.unlink()
    cache.render(clips, None, 0, 1, {"en": 6, "zh": 6, "de": 6})
    assert mels.read_bytes() == before
    assert {path.suffix for path in clips.iterdir()} == {".json", ".npy"}


def test_recordings_are_cached_with_their_kind_and_their_text_in_hanzi(tmp_path: Path) -> None:
    audio = tmp_path / "audio" / "train"
    audio.mkdir(parents=True)
    tone = np.sin(np.arange(16_000) / 5)
    for name in ("a", "b", "c"):
        soundfile.write(audio / f"{name}.wav", tone, 16_000)
    rows = ["path,kind,language,text,speaker", "train/a.wav,speech,zh,老师,li", "train/b.wav,speech,zh,lao3,li"]
    (tmp_path / "audio" / "manifest.csv").write_text("\n".join([*rows, "train/c.wav,noise,,,"]), encoding="utf-8")
    cache.render(tmp_path / "cache", audio, 0, 1, {})
    clips = json.loads((tmp_path / "cache" / "real.json").read_text(encoding="utf-8"))
    assert [(clip["source"], clip["text"]) for clip in clips] == [("real", "老师"), ("real", ""), ("noise", "")]
    corpus = Corpus(tmp_path / "cache")
    assert len(corpus.real["zh"]) == 2  # with and without a text
    assert corpus.noise is not None
    assert len(corpus.mel(0)) == clips[0]["frames"]
