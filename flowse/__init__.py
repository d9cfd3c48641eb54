"""FlowSE speech enhancement: the library that runs on one machine and knows no Ray and no MLflow.

Example:
    >>> from flowse import Enhancer, enhance_file
    >>> enhance_file("noisy.wav", "enhanced.wav")
    >>> enhancer = Enhancer.from_pretrained()
    >>> enhanced = enhancer(noisy, 16_000)
"""

import importlib

from flowse.extras import install_hint

install_hint()

__version__ = "0.1.0"

# These are imported on first use: `import flowse` alone imports neither torch nor numpy. Their types stand in
# `__init__.pyi`.
_MODULES = {
    "Enhancer": "flowse.enhancer",
    "Windowing": "flowse.enhancer",
    "Sampling": "flowse.flow.sampling",
    "enhance_file": "flowse.enhanced_files",
}
__all__ = ["Enhancer", "Sampling", "Windowing", "__version__", "enhance_file"]


def __getattr__(name: str) -> object:
    """Import a public class on its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'flowse' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*globals(), *_MODULES})
