"""Where a trader keeps what outlives it, and how it was started."""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from dpa.config import Frozen, Settings
from dpa.errors import UserError
from dpa.trading.journal import FILE_NAME


class Keeper(Frozen):
    """A gateway that keeps time.

    Parameters
    ----------
    host, port
        Of its control channel.
    token_file : Path
    """

    host: str
    port: int
    token_file: Path


class Start(Frozen):
    """How a trader was told to trade; kept beside the journal, for a kill without it.

    Parameters
    ----------
    settings : Settings
    storage : Path
        Absolute.
    url : str
        Of the decision service.
    token : str, optional
        Of it; none: what ``serving/token`` of the storage holds. Never kept.
    names : tuple of str
        Only these of the bundle; empty: all.
    replay : Path, optional
        Bars of the past to trade on paper, in virtual time.
    first, last : str, optional
        Dates of the replay.
    speed : float
        Of a replay, seconds a second; 0: as fast as it goes.
    keeper : Keeper, optional
        Who moves time; none: the wall clock.
    """

    settings: Settings
    storage: Path
    url: str = "http://127.0.0.1:8000"
    token: str | None = Field(None, exclude=True, repr=False)
    names: tuple[str, ...] = ()
    replay: Path | None = None
    first: str | None = None
    last: str | None = None
    speed: float = 0.0
    keeper: Keeper | None = None


@dataclass(frozen=True)
class Places:
    """Files of the trader of a storage.

    Parameters
    ----------
    storage : Path
    """

    storage: Path

    @property
    def folder(self) -> Path:
        """Mode 0700."""
        return self.storage / "trading"

    @property
    def journal(self) -> Path:
        """See :mod:`dpa.trading.journal`."""
        return self.folder / FILE_NAME

    @property
    def switch(self) -> Path:
        """See :mod:`dpa.trading.switch`."""
        return self.folder / "switch.json"

    @property
    def lease(self) -> Path:
        """See :mod:`dpa.trading.lease`."""
        return self.folder / "lease"

    @property
    def paper(self) -> Path:
        """The account of the embedded paper broker."""
        return self.folder / "paper.sqlite"

    @property
    def start(self) -> Path:
        """How the trader was started last."""
        return self.folder / "start.json"

    @property
    def reports(self) -> Path:
        """Session reports."""
        return self.folder / "reports"

    def make(self) -> None:
        """Make the folder, for this user only."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)

    def keep(self, start: Start) -> None:
        """Keep how a trader is started; whole or not at all, mode 0600."""
        self.make()
        handle, draft = tempfile.mkstemp(dir=self.folder, prefix=".start.")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(start.model_dump_json(indent=1, exclude={"settings": {"alerts"}}))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, self.start)

    def kept(self) -> Start:
        """How a trader was started last.

        Raises
        ------
        UserError
            None was ever started in this storage, or the file is damaged.
        """
        try:
            return Start.model_validate(json.loads(self.start.read_text(encoding="utf-8")))
        except FileNotFoundError as e:
            raise UserError(
                f"{self.start}: no trader was ever started in this storage", "give its --storage"
            ) from e
        except (OSError, ValueError, ValidationError) as e:
            raise UserError(
                f"{self.start}: cannot be read ({type(e).__name__})",
                "give --broker and where it listens on the command line",
            ) from e
