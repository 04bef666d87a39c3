"""What the peers' own environment runs is not collected here: it imports what this one has not."""

from __future__ import annotations

collect_ignore = ["peers"]
