"""Settings that all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

# An example lands batches in a database: a second or two, which is what is being tested.
# No example database: a failure is told by the world that it prints, everywhere the same.
settings.register_profile(
    "platform",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.generate, Phase.target, Phase.shrink],
)
settings.load_profile("platform")
