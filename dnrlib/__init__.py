"""Dynamic Neural Regeneration and Knowledge Evolution, made checkable.

The parts, in the order in which an experiment uses them: `config` says what is run, `methods`
what each method does per generation, `data`, `models`, `masks`, `fills`, `losses` and `train` do
it, `run` walks a chain of generations, `records` stores what came out, `study` runs many and gives
one data frame, `stats`, `paper`, `claims`, `tables` and `figures` turn frames into answers, `audit`
asks the paper's numbers alone, `pages` turns notebooks into a book.
"""

__version__ = "0.1.0"


class UserError(ValueError):
    """Something the user can mend; the message says what is wrong and what to do."""
