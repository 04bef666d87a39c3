"""Live pages over Separatrix runs."""
