"""Pages and the book: what notebooks share, and what makes pages of them. Needs `dnrlib[book]`.

Importing this raises `UserError` where papermill gave a notebook a parameter that it does not have:
all else that a notebook imports takes seconds.
"""

import re
import sys

from .. import UserError

ASSIGNED = re.compile(r"^(\w+) = ", re.MULTILINE)


def refuse_unknown() -> None:
    """Raises `UserError` that lists the valid names if the last cell that papermill injected has a
    name that no cell before it has; papermill itself only warns. Does nothing outside of a
    notebook."""
    ipython = sys.modules.get("IPython")
    if not (ipython and (shell := ipython.get_ipython())):
        return
    cells = shell.user_ns["In"]
    injected = max(
        (n for n, cell in enumerate(cells) if cell.startswith("# Parameters\n")), default=0
    )
    known = dict.fromkeys(ASSIGNED.findall("\n".join(cells[:injected])))
    if unknown := [name for name in ASSIGNED.findall(cells[injected]) if name not in known]:
        raise UserError(
            f"unknown parameter {', '.join(unknown)}; this notebook has: {', '.join(known)}"
        )


refuse_unknown()
