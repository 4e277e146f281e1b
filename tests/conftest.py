import pytest
import torch

from dnrlib.config import configure


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """No test reads or writes the runs or the datasets of whoever runs it."""
    monkeypatch.setenv("DNRLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DNRLIB_DATA", str(tmp_path / "data"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """As in every run; two test processes then leave each other alone."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny():
    """Builds configs that train in about a second: `tiny(method="dnr")`."""

    def build(**settings):
        small = {"width": 4, "epochs": 1, "generations": 3, "per_class": 4, "batch": 20}
        return configure("digits", **(small | settings))

    return build
