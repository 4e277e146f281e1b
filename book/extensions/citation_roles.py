"""Give the entries of the bibliography a role that readers of screens know: ARIA has given up the
one that docutils writes, and a list needs items."""


def replace(app, name, template, context, doctree):
    if doctree is not None:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app):
    app.connect("html-page-context", replace)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
