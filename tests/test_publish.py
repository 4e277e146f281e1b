"""The script that goes on training what is planned on photographs."""

from types import SimpleNamespace

from tests import publish


def test_what_is_planned_is_published_seed_by_seed_and_only_once(monkeypatch):
    there, trained = {("dnr", 0)}, []

    class Archive:
        def __init__(self, own):
            assert not own, "what lies in the runs folder is published too"

        def find(self, config, evaluations):
            return (config.method, config.seed) in there or None

    def study(configs, published, workers, evaluations):
        assert (published, workers) == (False, 1)
        trained.append([(config.method, config.seed, evaluations) for config in configs])
        return [SimpleNamespace(config=config, records=[]) for config in configs]

    def add(dataset, seed, found):
        assert dataset == "cifar10-few"
        written.append(seed)

    written = []
    plan = {"plain": 2, "dnr": 2, "ke": 2, "tune": 1}
    monkeypatch.setitem(publish.SEEDS, "cifar10-few", plan)
    monkeypatch.setattr(publish, "evaluated", lambda of: {a: ["e"] * (a == "ke") for a in plan})
    monkeypatch.setattr(publish, "Archive", Archive)
    monkeypatch.setattr(publish, "study", study)
    monkeypatch.setattr(publish.records, "publish", add)
    publish.go_on("cifar10-few", 1)
    assert trained == [
        [("plain", 0, ())],
        [("ke", 0, ("e",))],
        [("plain", 1, ()), ("dnr", 1, ())],
        [("ke", 1, ("e",))],
        [("tune", 0, ())],
    ]
    assert written == [0, 0, 1, 1, 1, 0]
