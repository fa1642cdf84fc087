"""How thorough property tests are: the same few examples in every run, or as many new ones as PROPERTY_EXAMPLES."""

import os

from hypothesis import HealthCheck, settings

MORE = int(os.environ.get("PROPERTY_EXAMPLES") or 0)


def examples(number: int) -> settings:
    """Settings for a test that tries `number` examples, always the same ones: CI says the same of the same code."""
    return settings(max_examples=MORE or number, derandomize=not MORE, deadline=None, database=None,
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
