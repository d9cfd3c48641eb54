"""Whisper on torch: openai-whisper's own model with a beam search over a whole batch of windows."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from flowse.whisper.config import PATIENCE, WhisperConfig
from flowse.whisper.downloads import download_folder, first_alone
from flowse.whisper.engine import DecodedWindow, language_codes, suppressed_tokens, tokenizer_of


class OpenAiEngine:
    """openai-whisper's model, decoded in batches.

    Args:
        config: Which model, at which precision.
        device: Where it runs.

    Raises:
        FileNotFoundError: There is no such model; says what to do.
        ValueError: The file is no Whisper checkpoint, or the precision needs a GPU.
    """

    def __init__(self, config: WhisperConfig, device: torch.device) -> None:
        import whisper

        on_gpu = device.type == "cuda"
        if config.compute == "float16" and not on_gpu:
            raise ValueError("compute is 'float16', which backend 'openai' has on a GPU only; set auto or float32")
        checkpoint = config.checkpoint()
        source = str(checkpoint or config.model)
        folder = download_folder(config.downloads)
        try:
            with nullcontext() if checkpoint else first_alone(folder, config.model):
                self.model = whisper.load_model(source, device=device, download_root=str(folder))
        except (KeyError, TypeError, ValueError, RuntimeError, OSError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{source}: not a checkpoint of openai-whisper ({type(error).__name__}: {error}); "
                "give a .pt file with `dims` and `model_state_dict`, e.g. one that openai-whisper downloaded"
            ) from error
        self.model.eval()
        self._half = on_gpu and config.compute in ("auto", "float16")
        self.multilingual = bool(self.model.is_multilingual)
        self.languages = language_codes(self.multilingual, self.model.num_languages)
        tokenizer_of(self.multilingual, self.model.num_languages)
        dims = self.model.dims
        self.n_mels, self.n_audio_ctx, self.n_text_ctx = dims.n_mels, dims.n_audio_ctx, dims.n_text_ctx

    def detect_language(self, mel: Float[torch.Tensor, "B F T"]) -> list[dict[str, float]]:
        """Return every window's probability of each language."""
        _, probabilities = self.model.detect_language(self._encode(mel))
        return list(probabilities)

    @torch.inference_mode()
    def _encode(self, mel: Float[torch.Tensor, "B F T"]) -> Float[torch.Tensor, "B P D"]:
        """Run the encoder: on a GPU over all windows at once, on a CPU window by window.

        A window's attention alone fills a processor's cache; sixteen of them take twice as long together as in turn.
        """
        if mel.device.type == "cuda":
            encoded = self.model.encoder(mel.half() if self._half else mel)
        else:
            encoded = torch.cat([self.model.encoder(window[None]) for window in mel])
        return torch.as_tensor(encoded)

    @torch.inference_mode()
    def decode(
        self, mel: Float[torch.Tensor, "B F T"], language: str, most_tokens: Sequence[int], beam_size: int
    ) -> list[DecodedWindow]:
        """Decode as openai-whisper's searches do, greedy and beam; a window that has ended leaves the batch.

        openai-whisper decodes all windows for as long as the longest, copies a vocabulary of logits five times a
        token, and cannot search the beams of several windows together (20250625 repeats a beam's tokens and not its
        audio): its batch on a CPU takes longer than the windows one by one.
        """
        features = self._encode(mel)
        tokenizer = tokenizer_of(self.multilingual, self.model.num_languages, language if self.multilingual else None)
        never, not_first = self._forbidden(tokenizer, features.device)
        start = list(tokenizer.sot_sequence_including_notimestamps)
        tokens = torch.tensor([start] * len(features), device=features.device)
        no_speech = [0.0] * len(features)
        rows = [_Hypothesis(window) for window in range(len(features))]
        searches = [_Search(beam_size, limit, tokenizer.eot) for limit in most_tokens]
        cache, hooks = self.model.install_kv_cache_hooks()
        self_attention = {part for block in self.model.decoder.blocks for part in (block.attn.key, block.attn.value)}
        try:
            for step in range(max(most_tokens)):
                logits = self.model.decoder(tokens, features, kv_cache=cache)
                if step == 0:
                    at_start = logits[:, start.index(tokenizer.sot)].softmax(dim=-1)
                    no_speech = at_start[:, tokenizer.no_speech].nan_to_num(0.0).tolist()
                logits = logits[:, -1].add_(not_first if step == 0 else never)
                best, chosen = logits.topk(beam_size + 1)
                best = best - logits.logsumexp(dim=-1, keepdim=True)
                grown = _grow(rows, best.tolist(), chosen.tolist())
                following = [row for window in grown for row in searches[window].advance(grown[window])]
                if not following:
                    break
                sources = [row.source for row in following]
                if sources != list(range(len(rows))):
                    index = torch.tensor(sources, device=features.device)
                    # The audio is the same for all beams of a window: it moves only when windows do.
                    windows_move = [row.window for row in rows] != [row.window for row in following]
                    features = features[index] if windows_move else features
                    for module, kept in cache.items():
                        if windows_move or module in self_attention:
                            cache[module] = kept[index]
                rows = following
                tokens = torch.tensor([[row.tokens[-1]] for row in rows], device=features.device)
        finally:
            for hook in hooks:
                hook.remove()
        return [
            search.likeliest(tokenizer, probability) for search, probability in zip(searches, no_speech, strict=True)
        ]

    def _forbidden(
        self, tokenizer: Any, device: torch.device
    ) -> tuple[Float[torch.Tensor, " V"], Float[torch.Tensor, " V"]]:
        """Return what is added to logits so that no forbidden token is chosen: at any place, and at the first."""
        never = torch.zeros(self.model.dims.n_vocab, device=device)
        never[suppressed_tokens(tokenizer)] = -math.inf
        not_first = never.clone()
        not_first[[*tokenizer.encode(" "), tokenizer.eot]] = -math.inf
        return never, not_first


@dataclass(frozen=True)
class _Hypothesis:
    """One text that a window may say.

    Attributes:
        window: Its place in the batch.
        tokens: The text so far.
        total: Sum of their log-probabilities.
        source: Row of the decoder that the hypothesis was a token ago.
    """

    window: int
    tokens: tuple[int, ...] = ()
    total: float = 0.0
    source: int = 0


def _grow(
    rows: Sequence[_Hypothesis], scores: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]]
) -> dict[int, list[_Hypothesis]]:
    """Return each window's hypotheses with one more token, the likeliest first."""
    grown: dict[int, list[_Hypothesis]] = {}
    for source, (row, row_scores, row_tokens) in enumerate(zip(rows, scores, tokens, strict=True)):
        grown.setdefault(row.window, []).extend(
            _Hypothesis(row.window, (*row.tokens, token), row.total + score, source)
            for score, token in zip(row_scores, row_tokens, strict=True)
        )
    for candidates in grown.values():
        candidates.sort(key=lambda candidate: -candidate.total)
    return grown


class _Search:
    """The beam search of one window.

    Attributes:
        ended: Hypotheses that reached the end of text, or the window's last token.
    """

    def __init__(self, beam_size: int, most_tokens: int, eot: int) -> None:
        self.ended: list[_Hypothesis] = []
        self._beam_size, self._most_tokens, self._eot = beam_size, most_tokens, eot
        self._wanted = 1 if beam_size == 1 else round(beam_size * PATIENCE)
        self._steps = 0

    def advance(self, candidates: Sequence[_Hypothesis]) -> list[_Hypothesis]:
        """Take candidates with one more token, the likeliest first; return those that go on, none when it is over.

        The likeliest `beam_size` that have not ended go on; candidates that are likelier still and end here have ended.
        """
        self._steps += 1
        going: list[_Hypothesis] = []
        for candidate in candidates:
            if candidate.tokens[-1] != self._eot:
                going.append(candidate)
            elif len(self.ended) < self._wanted:
                self.ended.append(candidate)
            if len(going) == self._beam_size:
                break
        if self._steps >= self._most_tokens:
            self.ended += going[: max(0, self._beam_size - len(self.ended))]
            return []
        return going if len(self.ended) < self._wanted else []

    def likeliest(self, tokenizer: Any, no_speech_prob: float) -> DecodedWindow:
        """Return the ended hypothesis with the highest mean log-probability."""
        texts = [([token for token in row.tokens if token != self._eot], row.total) for row in self.ended]
        text, total = max(texts, key=lambda scored: scored[1] / max(1, len(scored[0])))
        return DecodedWindow(
            text=tokenizer.decode(text).strip(),
            avg_logprob=total / (len(text) + 1),
            no_speech_prob=no_speech_prob,
            tokens=len(text) + 1,
        )
