"""`benchmarks` is not installed: it is found in the root of the repository, whatever directory pytest was started from."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
