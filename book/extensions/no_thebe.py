"""Take Thebe, the button that runs cells on a remote server, out of the built pages.

Jupyter Book always loads `sphinx_thebe`, also where no launch button is asked for. The extension
then writes the address of a content delivery network into every page, and writes it twice as a
`const`, which browsers report as a syntax error on every page.
"""


def setup(app):
    for listeners in app.events.listeners.values():
        listeners[:] = [entry for entry in listeners if entry.handler.__module__ != "sphinx_thebe"]
    styles = app.registry.css_files
    styles[:] = [(name, options) for name, options in styles if name != "sphinx-thebe.css"]
    return {"parallel_read_safe": True, "parallel_write_safe": True}
