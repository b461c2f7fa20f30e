"""Who gets a market data line, where there are fewer lines than symbols."""

from collections.abc import Collection, Sequence

_MOST_REMEMBERED = 10_000


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
        self._until: dict[int, float] = {}  # request -> first request after its cancel

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

    def taken(self, number: int) -> None:
        """Request `number` asks for a line."""
        self._until[number] = float("inf")

    def given_back(self, number: int, before: int) -> None:
        """The line of request `number` is given back before request `before`."""
        if number in self._until:
            self._until[number] = before
        if len(self._until) > _MOST_REMEMBERED:
            self._until = {n: end for n, end in self._until.items() if end == float("inf")}

    def refused(self, number: int) -> None:
        """TWS refused request `number` a line: there are as many as were in use before it.

        Requests are answered in their order, so that earlier refusals are known by now.
        """
        if self._until.pop(number, None) is not None:
            in_use = sum(n < number < end for n, end in self._until.items())
            self._most = min(self._most, max(in_use, 1))

    def forget(self) -> None:
        """A new connection: nothing is in use."""
        self._until = {}
