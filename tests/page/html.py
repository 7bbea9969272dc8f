"""What a page of a site consists of, by Python's parser of HTML."""

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "input"}


class Page(HTMLParser):
    """The elements, texts and links of a page; raises for an element that is not closed, or closed twice."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def links(self) -> list[str]:
        names = ("href", "src", "data-sample", "data-config")
        return [values[name] for _, values in self.elements for name in names if name in values]

    @property
    def policy(self) -> dict[str, list[str]]:
        (text,) = (values["content"] for tag, values in self.elements if "http-equiv" in values)
        return {name: values for name, *values in (part.split() for part in text.split(";"))}
