"""What tests that need a GPU have in common."""

from __future__ import annotations

import pytest

from separatrix.engine import devices_of, platform_names
from separatrix.resources import GPU_PLATFORMS

PLATFORM = next((name for name in platform_names() if name in GPU_PLATFORMS and devices_of(name)), None)
"""The platform to test: CUDA before the others, or None."""

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        PLATFORM is None,
        reason="no GPU platform of OpenMM has a device here: separatrix doctor tells what is missing",
    ),
]
