"""``python -m glide_fast`` is ``glide-fast``."""

from __future__ import annotations

from glide_fast.cli import main

if __name__ == "__main__":
    main()
