import os

import pytest

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs fork, signals or limits of POSIX")
