"""Elements that the pages of a site share. Texts of models are escaped, and nothing inline is a script or a style."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from brickyard.core.svg import element


def document(
    title: str, root: str, body: Iterable[str], scripts: Iterable[str] = (), sources: Iterable[str] = ()
) -> str:
    """Return a whole document.

    Args:
        title: Its title.
        root: The relative URL of the root of the site, "" or ending with "/".
        body: The elements of the page.
        scripts: The relative URLs of its scripts.
        sources: The URLs that the page may load from elsewhere.
    """
    head = [
        void_element("meta", {"charset": "utf-8"}),
        void_element("meta", {"http-equiv": "Content-Security-Policy", "content": _policy(sources)}),
        void_element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        void_element("meta", {"name": "color-scheme", "content": "light dark"}),
        void_element("meta", {"name": "referrer", "content": "no-referrer"}),
        void_element("link", {"rel": "stylesheet", "href": f"{root}assets/page.css"}),
        void_element("link", {"rel": "icon", "href": "data:,"}),
        element("title", {}, escape(title)),
        *(element("script", {"type": "module", "src": script}) for script in scripts),
    ]
    main = element("main", {}, *(f"{part}\n" for part in body))
    html = element(
        "html", {"lang": "en"}, "\n", element("head", {}, *(f"\n{tag}" for tag in head)), element("body", {}, main)
    )
    return f"<!DOCTYPE html>\n{html}\n"


def section(name: str, title: str, *content: str) -> str:
    """Return a section with a heading; its id is `name`."""
    label = f"{name}-title"
    return element(
        "section", {"id": name, "aria-labelledby": label}, element("h2", {"id": label}, escape(title)), *content
    )


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that scrolls by itself where the window is narrow; cells are HTML, the header is text."""
    head = element("tr", {}, *(element("th", {"scope": "col"}, escape(name)) for name in header))
    body = [
        element("tr", {}, element("th", {"scope": "row"}, first), *(element("td", {}, cell) for cell in rest))
        for first, *rest in rows
    ]
    title = element("caption", {"class": "visually-hidden"}, escape(caption))
    table = element("table", {}, title, element("thead", {}, head), element("tbody", {}, *body))
    return element("div", {"class": "scroll", **scrollable(caption)}, table)


def scrollable(label: str) -> dict[str, str]:
    """Return the attributes by which a keyboard scrolls an element."""
    return {"role": "region", "tabindex": "0", "aria-label": label}


def code_block(lines: Iterable[str]) -> str:
    """Return lines of code."""
    return element("pre", {"tabindex": "0"}, element("code", {}, escape("\n".join(lines))))


def void_element(name: str, attributes: Mapping[str, object]) -> str:
    """Return an element that has no content and no end tag."""
    return element(name, attributes).removesuffix(f"</{name}>")


def _policy(sources: Iterable[str]) -> str:
    """Return the Content-Security-Policy of a page that loads some URLs from elsewhere."""
    remote = "".join(f" {source}" for source in sources)
    directives = {
        "default-src": "'none'",
        "script-src": f"'self' 'wasm-unsafe-eval'{remote}",
        "connect-src": f"'self'{remote}",
        "img-src": "'self' blob: data:",
        "media-src": "'self' blob:",
        "style-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())
