"""Make every D-number in the text a link to its row of the list of discrepancies, and the name of a
method in the first column of a table a link to its card.

The rows are plain HTML with the number as their `id`, so no reference of Sphinx can name them. In
JupyterLab a table has plain names.
"""

import re

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

from dnrlib.methods import METHODS

ROWS, CARDS = "pages/discrepancies", "pages/methods"
NUMBER = re.compile(r"\b(D[1-9]\d?)\b")
LABELS = {method.label: name for name, method in METHODS.items()}
LONGEST_FIRST = "|".join(sorted(map(re.escape, LABELS), key=len, reverse=True))
NAME = re.compile(rf"(?:^|(?<= − ))({LONGEST_FIRST})(?=, | − |$)")


class Links(SphinxPostTransform):
    default_priority = 900

    def run(self, **kwargs):
        if self.app.builder.format != "html":
            return
        for text in [*self.document.findall(nodes.Text)]:
            parent, entry = text.parent, getattr(text.parent, "parent", None)
            if isinstance(
                parent, nodes.reference | nodes.literal | nodes.literal_block | nodes.title
            ):
                continue
            first = isinstance(entry, nodes.entry) and not entry.parent.index(entry)
            if first and NAME.search(text):
                self.link(text, NAME, CARDS, lambda name: f"tbl-plan-{LABELS[name]}")
            else:
                self.link(text, NUMBER, ROWS, str)

    def link(self, text, pattern, page, anchor):
        """Makes what the one group of a pattern finds in a text links to a page."""
        parts = pattern.split(text)
        if len(parts) == 1:
            return
        home = self.app.builder.get_relative_uri(self.env.docname, page)
        made = [
            nodes.reference("", part, refuri=f"{home}#{anchor(part)}", internal=True)
            if odd
            else nodes.Text(part)
            for odd, part in zip([False, True] * len(parts), parts, strict=False)
            if part
        ]
        text.parent.replace(text, made)


def setup(app):
    app.add_post_transform(Links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
