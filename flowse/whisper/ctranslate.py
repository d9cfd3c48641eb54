"""Whisper on CTranslate2 (faster-whisper's engine): the same model with other kernels, float16 and int8."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from flowse.whisper.config import PATIENCE, WhisperConfig
from flowse.whisper.conversion import converted
from flowse.whisper.engine import DecodedWindow, language_codes, suppressed_tokens, tokenizer_of


class CTranslateEngine:
    """A Whisper model on CTranslate2; a checkpoint of openai-whisper is converted first, once a machine.

    Args:
        config: Which model, at which precision.
        device: Where it runs.

    Raises:
        FileNotFoundError: There is no such model; says what to do.
        ValueError: The file is no Whisper checkpoint, or CTranslate2 cannot load it.
        BackendMissing: CTranslate2 or faster-whisper is not installed.
    """

    def __init__(self, config: WhisperConfig, device: torch.device) -> None:
        found = config.checkpoint()
        import ctranslate2

        if found is None:
            import faster_whisper

            # It locks its downloads itself.
            shared = config.downloads if Path(config.downloads or "/dev/null").is_dir() else None
            found = Path(faster_whisper.download_model(config.model, cache_dir=shared))
        elif found.is_file():
            found = converted(found)
        on_gpu = device.type == "cuda"
        kinds = {"auto": "float16" if on_gpu else "float32", "int8": "int8_float16" if on_gpu else "int8_float32"}
        try:
            self.model = ctranslate2.models.Whisper(
                str(found),
                device=device.type,
                device_index=device.index or 0,
                compute_type=kinds.get(config.compute, config.compute),
                intra_threads=torch.get_num_threads(),
            )
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{found}: CTranslate2 cannot load it: {error}") from error
        described = json.loads((found / "config.json").read_text(encoding="utf-8"))
        self.multilingual = bool(self.model.is_multilingual)
        self._num_languages = int(self.model.num_languages)
        self.languages = language_codes(self.multilingual, self._num_languages)
        self.n_mels = int(self.model.n_mels)
        # Only folders written by `flowse.whisper.conversion` say so; every published model has these.
        self.n_audio_ctx, self.n_text_ctx = described.get("n_audio_ctx", 1500), described.get("n_text_ctx", 448)

    def detect_language(self, mel: Float[torch.Tensor, "B F T"]) -> list[dict[str, float]]:
        """Return every window's probability of each language."""
        found = self.model.detect_language(_storage(mel))  # ("<|en|>", 0.9), … of each window
        return [{name.strip("<|>"): probability for name, probability in window} for window in found]

    def decode(
        self, mel: Float[torch.Tensor, "B F T"], language: str, most_tokens: Sequence[int], beam_size: int
    ) -> list[DecodedWindow]:
        """Decode windows at temperature 0, without timestamps; arguments as of `Engine.decode`."""
        decoded: dict[int, DecodedWindow] = {}
        # CTranslate2 takes one limit a batch.
        for limit in sorted(set(most_tokens)):
            rows = [row for row, most in enumerate(most_tokens) if most == limit]
            decoded |= zip(rows, self._generate(mel[rows], language, limit, beam_size), strict=True)
        return [decoded[row] for row in range(len(mel))]

    def _generate(
        self, mel: Float[torch.Tensor, "B F T"], language: str, most_tokens: int, beam_size: int
    ) -> list[DecodedWindow]:
        tokenizer = tokenizer_of(self.multilingual, self._num_languages, language if self.multilingual else None)
        results = self.model.generate(
            _storage(mel),
            [list(tokenizer.sot_sequence_including_notimestamps)] * len(mel),
            beam_size=beam_size,
            patience=1.0 if beam_size == 1 else PATIENCE,
            # Without a penalty the score is the sum over the tokens; beams are ranked by their mean, as openai's are.
            length_penalty=0.0 if beam_size == 1 else 1.0,
            # CTranslate2 takes half of it, at most, for what is new.
            max_length=2 * most_tokens,
            suppress_tokens=suppressed_tokens(tokenizer),
            return_scores=True,
            return_no_speech_prob=True,
        )
        decoded = []
        for result in results:
            tokens = [token for token in result.sequences_ids[0] if token != tokenizer.eot]
            total = result.scores[0] if beam_size == 1 else result.scores[0] * max(1, len(tokens))
            decoded.append(
                DecodedWindow(
                    text=tokenizer.decode(tokens).strip(),
                    avg_logprob=total / (len(tokens) + 1),
                    no_speech_prob=result.no_speech_prob,
                    tokens=len(tokens) + 1,
                )
            )
        return decoded


def _storage(mel: Float[torch.Tensor, "B F T"]) -> Any:
    """Copy log-mels into CTranslate2's own array type, on the CPU: it moves them to its device by itself."""
    import ctranslate2

    return ctranslate2.StorageView.from_array(mel.float().cpu().contiguous().numpy())
