"""The mistakes of `mistakes.py` fit the code; that they are noticed takes minutes, see there."""

import pytest

from tests.mistakes import MISTAKES, ROOT, mistaken


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_fits_the_code(name):
    function, code = mistaken(name)
    assert (
        function.__code__.co_code != code.co_code or function.__code__.co_consts != code.co_consts
    )
    assert (ROOT / "tests" / f"{MISTAKES[name][3]}.py").exists()
