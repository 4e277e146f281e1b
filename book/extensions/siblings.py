"""Under the heading of a page, links to the same page of other images: those that stand with it in
the table of contents."""

from docutils import nodes


def of_family(app, name):
    """The pages that belong together, the first of them with the others as its sections; none if a
    page stands alone."""
    for parent, sections in app.env.toctree_includes.items():
        if parent != app.config.root_doc and name in (parent, *sections):
            return [parent, *sections]
    return []


def short(title):
    """What a title has in brackets at its end: `digits` of `Table 1: does DNR help? (digits)`."""
    return title.rpartition("(")[2].removesuffix(")")


def link(app, doctree, name):
    family, line = of_family(app, name), nodes.inline()
    if not family:
        return
    for page in family:
        words = short(app.env.titles[page].astext())
        uri = app.builder.get_relative_uri(name, page)
        line += nodes.strong("", words) if page == name else nodes.reference("", words, refuri=uri)
        line += nodes.Text("" if page == family[-1] else " · ")
    below = nodes.container("", line, classes=["siblings"])
    doctree.next_node(nodes.section).insert(1, below)


def name_arrows(app, name, template, context, doctree):
    """The theme's arrows that unfold a family in the contents have no name to be read aloud."""
    made = context["generate_toctree_html"]

    def named(*args, **options):
        summary = '<summary aria-label="the same of other images">'
        return str(made(*args, **options)).replace("<summary>", summary)

    context["generate_toctree_html"] = named


def setup(app):
    app.connect("doctree-resolved", link)
    # After the theme, which makes that function at 500.
    app.connect("html-page-context", name_arrows, priority=502)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
