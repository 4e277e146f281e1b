"""Draw the figures of notebooks as part of their page, so that they follow its colours and fonts,
their text is found and read out, and none of their text is smaller than a phone shows it."""

from pathlib import Path

from docutils import nodes
from sphinx.transforms import SphinxTransform

from dnrlib.book.figures import inlined


class InlineFigures(SphinxTransform):
    # After the outputs of notebooks have become images, before images are collected.
    default_priority = 900

    def apply(self):
        for number, image in enumerate(self.document.findall(nodes.image)):
            if "jupyter_execute" in image["uri"] and image["uri"].endswith(".svg"):
                # The folder of MyST-NB.
                folder = Path(self.app.outdir).parent / "jupyter_execute"
                path = folder / Path(image["uri"]).name
                drawn = inlined(path.read_text("utf-8"), image["alt"], f"{path.stem[:8]}-{number}")
                image.replace_self(nodes.raw("", drawn, format="html"))


def setup(app):
    app.add_transform(InlineFigures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
