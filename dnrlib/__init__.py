"""Dynamic Neural Regeneration and Knowledge Evolution, made checkable.

For a network and a training loop of your own: `snip`, `fisher`, `magnitude` and `chance` score its
weights, `top` makes an exact mask of the scores, `reinitialise` resets what the mask does not keep,
and `regenerate` is the loop around a training. `train.train` is the trainer of the experiments.

The experiments stand on these: `config` and `recipes` say what is run, `methods` what each method
does per generation, `run` walks a chain of generations, `store` and `records` keep what came out,
`study` runs many, `frames` and `stats` turn them into answers, `paper` holds what the papers say,
`book` turns notebooks into a book, and `compare` finds the method for a folder of images.
"""

import importlib

__version__ = "0.1.0"


class UserError(ValueError):
    """Something the user can mend; the message says what is wrong and what to do."""


_PUBLIC = {
    **dict.fromkeys(("snip", "fisher", "magnitude", "chance", "top", "kels", "wels"), "masks"),
    **dict.fromkeys(("reinitialise", "regenerate"), "reinit"),
    "Settings": "config",
    "load_model": "compare.export",
}
__all__ = ["UserError", *_PUBLIC]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    """What is public, from its module, which is imported when first asked for."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
