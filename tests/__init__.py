import os

import pytest

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs processes, paths or shells of POSIX")
