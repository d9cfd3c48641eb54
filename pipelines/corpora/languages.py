"""Language labels of corpora, brought to the codes that the rest of the program uses."""

from __future__ import annotations

import re
from functools import cache

_CODES = {
    "ara": "ar",
    "cat": "ca",
    "ces": "cs",
    "chi": "zh",
    "cmn": "zh",
    "cze": "cs",
    "dan": "da",
    "deu": "de",
    "dut": "nl",
    "ell": "el",
    "eng": "en",
    "fin": "fi",
    "fra": "fr",
    "fre": "fr",
    "ger": "de",
    "heb": "he",
    "hin": "hi",
    "hun": "hu",
    "ind": "id",
    "ita": "it",
    "jpn": "ja",
    "kor": "ko",
    "nld": "nl",
    "nor": "no",
    "pol": "pl",
    "por": "pt",
    "ron": "ro",
    "rum": "ro",
    "rus": "ru",
    "spa": "es",
    "swe": "sv",
    "tha": "th",
    "tur": "tr",
    "ukr": "uk",
    "vie": "vi",
    "yue": "zh",
    "zho": "zh",
    "putonghua": "zh",
    "中文": "zh",
    "普通话": "zh",
    "粤语": "zh",
}


@cache
def canonical(label: str) -> str:
    """Return Whisper's code (ISO 639-1) of a language label (`zh-CN`, `eng`, `English`, `cmn`).

    Cantonese (`yue`) is "zh". An unknown label is returned as it is, in lower case.
    """
    whole = label.strip().lower()
    base = re.split(r"[-_ (]", whole)[0]
    if base in _CODES or len(base) == 2:
        return _CODES.get(base, base)
    if not base:
        return ""
    from whisper.tokenizer import TO_LANGUAGE_CODE  # takes seconds to import, which codes do not need

    code = TO_LANGUAGE_CODE.get(whole) or TO_LANGUAGE_CODE.get(base) or base
    return "zh" if code == "yue" else code
