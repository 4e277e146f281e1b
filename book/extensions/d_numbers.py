"""Make every D-number in the text a link to its row of the list of discrepancies.

The rows are plain HTML with the number as their `id`, so no reference of Sphinx can name them.
"""

import re

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

LIST = "pages/discrepancies"


class Links(SphinxPostTransform):
    default_priority = 900

    def run(self, **kwargs):
        if self.app.builder.format != "html" or self.env.docname == LIST:
            return
        home = self.app.builder.get_relative_uri(self.env.docname, LIST)
        for text in [*self.document.findall(nodes.Text)]:
            parent = text.parent
            if isinstance(
                parent, nodes.reference | nodes.literal | nodes.literal_block | nodes.title
            ):
                continue
            parts = re.split(r"\b(D[1-9]\d?)\b", text.astext())
            if len(parts) > 1:
                made = [
                    nodes.reference("", part, refuri=f"{home}#{part}", internal=True)
                    if odd
                    else nodes.Text(part)
                    for odd, part in zip([False, True] * len(parts), parts, strict=False)
                    if part
                ]
                parent.replace(text, made)


def setup(app):
    app.add_post_transform(Links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
