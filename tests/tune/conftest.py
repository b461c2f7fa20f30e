"""Makes the modules of tune/ importable, as ``python tune/grid.py`` does."""

import sys
from pathlib import Path

TUNE = str(Path(__file__).resolve().parents[2] / "tune")
if TUNE not in sys.path:
    sys.path.insert(0, TUNE)
