"""What others are shown of a page: its description, its picture, and, once `repository.url` of
`_config.yml` says where the book's source is, buttons to it and to Binder."""

import html
import re

from docutils import nodes

from dnrlib.book.pages import source


def buttons(app, config):
    if config.html_theme_options.get("repository_url"):
        config.html_theme_options |= {
            "use_repository_button": True,
            "use_issues_button": True,
            "launch_buttons": {
                "binderhub_url": "https://mybinder.org",
                "notebook_interface": "jupyterlab",
            },
        }


def described(paragraph):
    """The first sentences of a paragraph that fit into 300 characters, but always the whole first
    one; without the numbers of citations."""
    words = re.sub(r" \[[\d, ]*\]", "", " ".join(paragraph.split())).removesuffix(":")
    first, *others = re.split(r"(?<=[.?!])(?<!Fig\.)(?<!Figs\.) (?=[A-Z])", words)
    for sentence in others:
        if len(first) + len(sentence) >= 300:
            break
        first += f" {sentence}"
    return first


def share(app, name, template, context, doctree):
    # The theme takes a page for its own source; a generated one is not in the repository.
    for group in context["header_buttons"]:
        for button in group.get("buttons", []):
            if "?urlpath=" in button.get("url", ""):
                notebook = source(name.removeprefix("pages/"))[0].name
                button["url"] = button["url"].replace(f"{name}.ipynb", f"notebooks/{notebook}")
    if doctree is None:
        return
    first = next(doctree.findall(nodes.paragraph), None)
    words = described(first.astext()) if first else context["title"]
    shown = {"og:type": "article", "og:title": context["title"], "og:description": words}
    if app.config.html_baseurl:
        shown["og:image"] = f"{app.config.html_baseurl.rstrip('/')}/_static/card.png"
    tags = [f'<meta name="description" content="{html.escape(words)}">']
    for key, content in shown.items():
        tags.append(f'<meta property="{key}" content="{html.escape(content)}">')
    context["metatags"] += "\n" + "\n".join(tags)


def setup(app):
    app.connect("config-inited", buttons)
    # After the theme, which makes its buttons at 501.
    app.connect("html-page-context", share, priority=502)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
