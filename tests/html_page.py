"""An HTML page taken apart."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Tables by name, the text of elements by id, and every address the page refers to."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.addresses, self.policies = {}, [], []
        self.text = ""
        self._table, self._cell = None, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.addresses += [attrs[key] for key in ("src", "href", "action", "data") if key in attrs]
        if tag == "table":
            self._table = self.tables.setdefault(attrs["data-table"], [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
            self._cell = True
        elif tag == "script":
            self._cell = None

    def handle_endtag(self, tag):
        if tag in ("td", "th", "script"):
            self._cell = False

    def handle_data(self, data):
        if self._cell:
            self._table[-1][-1] += data
        if self._cell is not None:
            self.text += data
