"""Who gets a market data line, where there are fewer lines than symbols."""

from collections.abc import Collection, Sequence


class Lines:
    """A limited number of lines; symbols that are held come first.

    Parameters
    ----------
    most : int
        Lines of the account, as the settings say.
    each : int
        Lines that a symbol takes: one for quotes, one more for five-second bars.
    """

    def __init__(self, most: int, each: int = 1) -> None:
        self._most, self._each = most, each

    @property
    def most(self) -> int:
        """Lines there are, as far as is known."""
        return self._most

    @property
    def symbols(self) -> int:
        """Symbols that can be followed."""
        return max(self._most // self._each, 1)

    def choose(self, symbols: Sequence[str], held: Collection[str]) -> tuple[str, ...]:
        """Symbols that get a line, the most urgent first.

        Parameters
        ----------
        symbols : sequence of str
            In the order of their worth.
        held : collection of str
            Those with a position: they keep their lines whatever happens.
        """
        first = [symbol for symbol in symbols if symbol in held]
        rest = [symbol for symbol in symbols if symbol not in held]
        return tuple((first + rest)[: self.symbols])

    def refused(self, in_use: int) -> None:
        """TWS refused a line while so many were in use: there are no more than those."""
        self._most = min(self._most, max(in_use, 1))
