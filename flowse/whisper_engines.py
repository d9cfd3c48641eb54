"""The two programs that run a Whisper model on log-mels: openai-whisper and CTranslate2 (faster-whisper's)."""

from __future__ import annotations

import importlib.util
import json
import math
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float

from flowse.pretrained import resolve

Backend = Literal["openai", "faster-whisper"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

Compute = Literal["auto", "float32", "float16", "int8"]
COMPUTES: tuple[Compute, ...] = get_args(Compute)

PATIENCE = 2.0
"""A beam search ends when this many texts a beam have ended (Kasai et al. 2022, openai-whisper's `patience`).

With 1, a model that spells letter by letter ends too early: every letter before the last offers a worse end.
"""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What one window was decoded to.

    Attributes:
        text: Without white space at its ends.
        avg_logprob: Mean natural log-probability a token, the end of text counted.
        no_speech_prob: Probability that nobody speaks; 0 if the model cannot say.
        tokens: Number of tokens, with the end of text.
    """

    text: str
    avg_logprob: float
    no_speech_prob: float
    tokens: int


@runtime_checkable
class Engine(Protocol):
    """A loaded Whisper model.

    Attributes:
        languages: Codes of the languages that it knows.
        multilingual: Whether it can tell languages apart.
        n_mels: Mel bins that it hears.
        n_audio_ctx: Positions of its encoder; each stands for two mel frames.
        n_text_ctx: Most tokens that its decoder holds.
    """

    languages: tuple[str, ...]
    multilingual: bool
    n_mels: int
    n_audio_ctx: int
    n_text_ctx: int

    def detect_language(self, mel: Float[torch.Tensor, "B F T"]) -> list[dict[str, float]]:
        """Return every window's probability of each language."""

    def decode(
        self, mel: Float[torch.Tensor, "B F T"], language: str, most_tokens: Sequence[int], beam_size: int
    ) -> list[Heard]:
        """Decode windows at temperature 0, without timestamps, each by itself and to at most its number of tokens."""


class BackendMissing(ModuleNotFoundError):
    """The chosen backend is not installed; the message says what to type."""


def open_engine(model: str | Path, backend: Backend, device: torch.device, compute: Compute) -> Engine:
    """Load a model.

    Args:
        model: A file in openai-whisper's checkpoint format, a folder with one (`model.pt`), the name of an embedded
            model (`whisper-tiny`), or a published name (`base`, `large-v3`), which the backend downloads once; for
            "faster-whisper" also a CTranslate2 folder (`model.bin`).
        backend: Which program runs it.
        device: Where.
        compute: Precision; "auto" is float16 on a GPU and float32 on a CPU.

    Raises:
        FileNotFoundError: There is no such model; says what to do.
        ValueError: The file is no Whisper checkpoint, or the backend does not know the precision.
        BackendMissing: The backend is not installed.
    """
    refuse_unknown(backend, compute)
    if backend == "faster-whisper":
        return _CTranslate(model, device, compute)
    return _OpenAi(model, device, compute)


def refuse_unknown(backend: str, compute: str) -> None:
    """Refuse settings that no engine has.

    Raises:
        ValueError: Naming what is allowed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; allowed: {', '.join(BACKENDS)}")
    if compute not in COMPUTES:
        raise ValueError(f"compute is {compute!r}; allowed: {', '.join(COMPUTES)}")
    if backend == "openai" and compute == "int8":
        raise ValueError("compute is 'int8', which backend 'openai' does not have; set backend: faster-whisper")


def checkpoint_file(model: str | Path, backend: Backend = "openai") -> Path | None:
    """Find a model's checkpoint file, or its CTranslate2 folder.

    Args:
        model: As `open_engine` takes it.
        backend: Which program is to run it.

    Returns:
        The path, or None for a published name, which the backend finds (or downloads) itself.

    Raises:
        FileNotFoundError: There is no such model, or not for this backend; says what to do.
        BackendMissing: The backend is not installed.
    """
    published = _published(backend)
    try:
        found = resolve(str(model))
    except FileNotFoundError:
        if str(model) in published:
            return None
        raise FileNotFoundError(
            f"Whisper model {str(model)!r}: no such file, folder or embedded model; give the path of a .pt "
            f"file, an embedded name such as 'whisper-tiny', or a published name ({', '.join(published)})"
        ) from None
    if not found.is_dir():
        return found
    if (found / "model.bin").is_file():
        if backend == "faster-whisper":
            return found
        raise FileNotFoundError(f"{found}: a CTranslate2 folder, which only backend 'faster-whisper' reads; set it")
    inside = sorted(found.glob("*.pt"))
    if len(inside) != 1:
        raise FileNotFoundError(f"{found}: holds {len(inside)} .pt files where one is wanted; give the file itself")
    return inside[0]


def _published(backend: Backend) -> list[str]:
    """Names that a backend downloads."""
    if backend == "openai":
        import whisper

        return list(whisper.available_models())
    if importlib.util.find_spec("faster_whisper") is None or importlib.util.find_spec("ctranslate2") is None:
        raise BackendMissing("backend 'faster-whisper' is not installed; type: pip install '.[faster]'")
    import faster_whisper

    return list(faster_whisper.available_models())


def _tokenizer(multilingual: bool, num_languages: int, language: str | None = None) -> Any:
    import whisper

    with warnings.catch_warnings():
        # Whisper reads its vocabulary without closing the file; it does so once a process.
        warnings.simplefilter("ignore", ResourceWarning)
        return whisper.tokenizer.get_tokenizer(
            multilingual, num_languages=num_languages, language=language, task="transcribe" if multilingual else None
        )


def _codes(multilingual: bool, num_languages: int) -> tuple[str, ...]:
    from whisper.tokenizer import LANGUAGES

    return tuple(LANGUAGES)[:num_languages] if multilingual else ("en",)


class _OpenAi:
    """openai-whisper's own model, on torch."""

    def __init__(self, model: str | Path, device: torch.device, compute: Compute) -> None:
        import whisper

        on_gpu = device.type == "cuda"
        if compute == "float16" and not on_gpu:
            raise ValueError("compute is 'float16', which backend 'openai' has on a GPU only; set auto or float32")
        file = checkpoint_file(model)
        try:
            self.model = whisper.load_model(str(file or model), device=device)
        except (KeyError, TypeError, ValueError, RuntimeError, OSError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{file or model}: not a checkpoint of openai-whisper ({type(error).__name__}: {error}); "
                "give a .pt file with `dims` and `model_state_dict`, e.g. one that openai-whisper downloaded"
            ) from error
        self.model.eval()
        self._half = on_gpu and compute in ("auto", "float16")
        self.multilingual = bool(self.model.is_multilingual)
        self.languages = _codes(self.multilingual, self.model.num_languages)
        _tokenizer(self.multilingual, self.model.num_languages)
        dims = self.model.dims
        self.n_mels, self.n_audio_ctx, self.n_text_ctx = dims.n_mels, dims.n_audio_ctx, dims.n_text_ctx

    def detect_language(self, mel: Float[torch.Tensor, "B F T"]) -> list[dict[str, float]]:
        """Return every window's probability of each language."""
        _, found = self.model.detect_language(self._encode(mel))
        return list(found)

    @torch.inference_mode()
    def _encode(self, mel: Float[torch.Tensor, "B F T"]) -> Float[torch.Tensor, "B P D"]:
        """Run the encoder: on a GPU over all windows at once, on a CPU one by one.

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
    ) -> list[Heard]:
        """Decode as openai-whisper's searches do, greedy and beam; a window that has ended leaves the batch.

        There, all windows are decoded for as long as the longest, a vocabulary of logits is copied five times a
        token, and beams of several windows cannot be searched together (20250625 repeats a beam's tokens and not
        its audio): a batch on a CPU then takes longer than its windows one by one.
        """
        features = self._encode(mel)
        tokenizer = _tokenizer(self.multilingual, self.model.num_languages, language if self.multilingual else None)
        never = torch.zeros(self.model.dims.n_vocab, device=features.device)
        never[_suppressed(tokenizer)] = -math.inf
        not_first = never.clone()
        not_first[[*tokenizer.encode(" "), tokenizer.eot]] = -math.inf
        start = list(tokenizer.sot_sequence_including_notimestamps)
        tokens = torch.tensor([start] * len(features), device=features.device)
        no_speech = [0.0] * len(features)
        rows = [_Hypothesis(window) for window in range(len(features))]
        ended: list[list[_Hypothesis]] = [[] for _ in features]
        cache, hooks = self.model.install_kv_cache_hooks()
        wanted = 1 if beam_size == 1 else round(beam_size * PATIENCE)
        of_text = {part for block in self.model.decoder.blocks for part in (block.attn.key, block.attn.value)}
        try:
            for step in range(max(most_tokens)):
                logits = self.model.decoder(tokens, features, kv_cache=cache)
                if step == 0:
                    said = logits[:, start.index(tokenizer.sot)].softmax(dim=-1)[:, tokenizer.no_speech]
                    no_speech = said.nan_to_num(0.0).tolist()
                logits = logits[:, -1].add_(not_first if step == 0 else never)
                best, chosen = logits.topk(beam_size + 1)
                best = best - logits.logsumexp(dim=-1, keepdim=True)
                following: list[_Hypothesis] = []
                for window, candidates in _grow(rows, best.tolist(), chosen.tolist()).items():
                    going = _part(candidates, ended[window], beam_size, wanted, tokenizer.eot)
                    if step + 1 >= most_tokens[window]:
                        ended[window] += going[: max(0, beam_size - len(ended[window]))]
                    if len(ended[window]) < wanted and step + 1 < most_tokens[window]:
                        following += going
                if not following:
                    break
                sources = [row.source for row in following]
                if sources != list(range(len(rows))):
                    index = torch.tensor(sources, device=features.device)
                    # What is heard is the same for all beams of a window: it moves only when windows do.
                    moved = [row.window for row in rows] != [row.window for row in following]
                    features = features[index] if moved else features
                    for module, held in cache.items():
                        if moved or module in of_text:
                            cache[module] = held[index]
                rows = following
                tokens = torch.tensor([[row.tokens[-1]] for row in rows], device=features.device)
        finally:
            for hook in hooks:
                hook.remove()
        heard = []
        for probability, texts in zip(no_speech, ended, strict=True):
            total, text = max(
                ((row.total, row.text(tokenizer.eot)) for row in texts), key=lambda one: one[0] / max(1, len(one[1]))
            )
            heard.append(
                Heard(
                    text=tokenizer.decode(text).strip(),
                    avg_logprob=total / (len(text) + 1),
                    no_speech_prob=probability,
                    tokens=len(text) + 1,
                )
            )
        return heard


@dataclass(frozen=True)
class _Hypothesis:
    """One text that a window may say.

    Attributes:
        window: Its place in the batch.
        tokens: The text so far.
        total: Sum of their log-probabilities.
        source: Row of the decoder that it was a token ago.
    """

    window: int
    tokens: tuple[int, ...] = ()
    total: float = 0.0
    source: int = 0

    def text(self, eot: int) -> list[int]:
        """The tokens without the end of text."""
        return [token for token in self.tokens if token != eot]


def _grow(
    rows: Sequence[_Hypothesis], scores: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]]
) -> dict[int, list[_Hypothesis]]:
    """Each window's hypotheses with one more token, the likeliest first."""
    grown: dict[int, list[_Hypothesis]] = {}
    for source, (row, likely, said) in enumerate(zip(rows, scores, tokens, strict=True)):
        grown.setdefault(row.window, []).extend(
            _Hypothesis(row.window, (*row.tokens, token), row.total + score, source)
            for score, token in zip(likely, said, strict=True)
        )
    for candidates in grown.values():
        candidates.sort(key=lambda candidate: -candidate.total)
    return grown


def _part(
    candidates: Sequence[_Hypothesis], ended: list[_Hypothesis], beams: int, wanted: int, eot: int
) -> list[_Hypothesis]:
    """Return the likeliest candidates that go on; those likelier still that end here join `ended`, up to `wanted`."""
    going: list[_Hypothesis] = []
    for candidate in candidates:
        if candidate.tokens[-1] != eot:
            going.append(candidate)
        elif len(ended) < wanted:
            ended.append(candidate)
        if len(going) == beams:
            break
    return going


def _suppressed(tokenizer: Any) -> list[int]:
    """The tokens that openai-whisper never writes: signs for sounds, and all that steers the model."""
    steering = (
        tokenizer.transcribe,
        tokenizer.translate,
        tokenizer.sot,
        tokenizer.sot_prev,
        tokenizer.sot_lm,
        tokenizer.no_speech,
    )
    return sorted({*tokenizer.non_speech_tokens, *steering})


class _CTranslate:
    """The same model on CTranslate2: other kernels, float16 and int8."""

    def __init__(self, model: str | Path, device: torch.device, compute: Compute) -> None:
        found = checkpoint_file(model, "faster-whisper")
        import ctranslate2

        if found is None:
            import faster_whisper

            found = Path(faster_whisper.download_model(str(model)))
        elif found.is_file():
            from flowse.whisper_conversion import converted

            found = converted(found)
        on_gpu = device.type == "cuda"
        kinds = {"auto": "float16" if on_gpu else "float32", "int8": "int8_float16" if on_gpu else "int8_float32"}
        try:
            self.model = ctranslate2.models.Whisper(
                str(found),
                device=device.type,
                device_index=device.index or 0,
                compute_type=kinds.get(compute, compute),
                intra_threads=torch.get_num_threads(),
            )
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{found}: CTranslate2 cannot load it: {error}") from error
        config = json.loads((found / "config.json").read_text(encoding="utf-8"))
        self.multilingual = bool(self.model.is_multilingual)
        self._num_languages = int(self.model.num_languages)
        self.languages = _codes(self.multilingual, self._num_languages)
        self.n_mels = int(self.model.n_mels)
        # Only folders that we converted say so; every published model has these.
        self.n_audio_ctx, self.n_text_ctx = config.get("n_audio_ctx", 1500), config.get("n_text_ctx", 448)

    def detect_language(self, mel: Float[torch.Tensor, "B F T"]) -> list[dict[str, float]]:
        """Return every window's probability of each language."""
        found = self.model.detect_language(_storage(mel))
        return [{name.strip("<|>"): probability for name, probability in one} for one in found]

    def decode(
        self, mel: Float[torch.Tensor, "B F T"], language: str, most_tokens: Sequence[int], beam_size: int
    ) -> list[Heard]:
        """Decode windows at temperature 0, without timestamps."""
        heard: dict[int, Heard] = {}
        # CTranslate2 takes one limit a batch.
        for limit in sorted(set(most_tokens)):
            rows = [row for row, most in enumerate(most_tokens) if most == limit]
            heard |= zip(rows, self._generate(mel[rows], language, limit, beam_size), strict=True)
        return [heard[row] for row in range(len(mel))]

    def _generate(
        self, mel: Float[torch.Tensor, "B F T"], language: str, most_tokens: int, beam_size: int
    ) -> list[Heard]:
        tokenizer = _tokenizer(self.multilingual, self._num_languages, language if self.multilingual else None)
        results = self.model.generate(
            _storage(mel),
            [list(tokenizer.sot_sequence_including_notimestamps)] * len(mel),
            beam_size=beam_size,
            patience=1.0 if beam_size == 1 else PATIENCE,
            # Without a penalty the score is the sum over the tokens; beams are ranked by their mean, as openai's are.
            length_penalty=0.0 if beam_size == 1 else 1.0,
            # CTranslate2 takes half of it, at most, for what is new.
            max_length=2 * most_tokens,
            suppress_tokens=_suppressed(tokenizer),
            return_scores=True,
            return_no_speech_prob=True,
        )
        heard = []
        for result in results:
            tokens = [token for token in result.sequences_ids[0] if token != tokenizer.eot]
            total = result.scores[0] if beam_size == 1 else result.scores[0] * max(1, len(tokens))
            heard.append(
                Heard(
                    text=tokenizer.decode(tokens).strip(),
                    avg_logprob=total / (len(tokens) + 1),
                    no_speech_prob=result.no_speech_prob,
                    tokens=len(tokens) + 1,
                )
            )
        return heard


def _storage(mel: Float[torch.Tensor, "B F T"]) -> Any:
    import ctranslate2

    return ctranslate2.StorageView.from_array(mel.float().cpu().contiguous().numpy())
