"""What holds for all tests: hypothesis tries the same examples in each run.

What decides about a change must not depend on chance. `--hypothesis-profile=search` tries others in
each run, and keeps those that fail.
"""

try:
    from hypothesis import HealthCheck, settings
except ModuleNotFoundError:
    pass  # the tests of clients do without it, in an environment of their own
else:
    _SLOW = [HealthCheck.too_slow]  # a machine may be, and no example has a deadline
    settings.register_profile("search", deadline=None, suppress_health_check=_SLOW)
    settings.register_profile(
        "same", settings.get_profile("search"), derandomize=True, database=None
    )
    settings.load_profile("same")
