"""Fixtures that several files of tests need."""

import pytest
from snapshots import BACKENDS


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param
