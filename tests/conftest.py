"""What holds for every test: no property is timed, since a busy machine is no fault of the product."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
