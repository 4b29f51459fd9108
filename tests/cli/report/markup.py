"""The source of a page as a tree that tests can ask."""

from html.parser import HTMLParser

VOID = {"meta", "input", "br", "col", "link", "img"}


class Element:
    """An element: its name, its attributes, its text and what is in it."""

    def __init__(self, name: str, attributes: dict[str, str | None], parent: "Element | None") -> None:
        self.name, self.attributes, self.parent = name, attributes, parent
        self.children: list[Element] = []
        self.texts: list[str] = []

    @property
    def text(self) -> str:
        """All text in it."""
        return "".join(self.texts)

    def all(self, name: str) -> "list[Element]":
        """Everything of a name below it, in order."""
        found = [self] if self.name == name else []
        return found + [element for child in self.children for element in child.all(name)]

    def everything(self) -> "list[Element]":
        """Everything below it, and itself."""
        return [self, *(element for child in self.children for element in child.everything())]

    def within(self, name: str) -> bool:
        """Whether it is in an element of a name."""
        return self.parent is not None and (self.parent.name == name or self.parent.within(name))


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = self.current = Element("root", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs), self.current)
        self.current.children.append(element)
        if tag not in VOID:
            self.current = element

    def handle_endtag(self, tag: str) -> None:
        assert self.current.name == tag, f"</{tag}> ends <{self.current.name}>"
        assert self.current.parent is not None
        self.current = self.current.parent

    def handle_data(self, data: str) -> None:
        element: Element | None = self.current
        while element is not None:
            element.texts.append(data)
            element = element.parent


def parsed(source: str) -> Element:
    """Return the tree of a page; what is opened is closed."""
    builder = _Builder()
    builder.feed(source)
    builder.close()
    assert builder.current is builder.root, f"<{builder.current.name}> is never closed"
    return builder.root


def by_id(root: Element, name: str) -> Element:
    """Return the one element of an id."""
    (found,) = (element for element in root.everything() if element.attributes.get("id") == name)
    return found
