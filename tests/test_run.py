"""Properties of whole runs, over all methods."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from dnrlib import UserError, cli, masks, records, rules, run, train
from dnrlib.config import canonical
from dnrlib.datasets.augment import Training
from dnrlib.datasets.catalogue import load
from dnrlib.masks import prunable
from dnrlib.methods import METHODS, Generation, budget, plan
from dnrlib.models import build
from dnrlib.recipes import configure
from dnrlib.run import Walk, chain
from dnrlib.store import Store
from dnrlib.streams import stream
from dnrlib.study import Archive
from tests import POSIX


def results(found):
    return [(record["kind"], record["key"], record["result"]) for record in found]


def weights(link):
    return torch.load(records.runs_root() / link.key / "weights.pt", weights_only=True)


@pytest.fixture(scope="module")
def everyone(tiny, tmp_path_factory):
    """The records of every method with three generations of two epochs, trained twice."""
    return [
        {method: run.run(tiny(method=method, epochs=2), folder) for method in METHODS}
        for folder in (tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("again"))
    ]


@pytest.mark.parametrize("generations", [3, 9])
@pytest.mark.parametrize("method", METHODS)
def test_declared_budget_is_equal(tiny, method, generations):
    """Every method trains generations x epochs, but plain training and RePr, which are one
    generation, DSD, whose phases are one and two halves, and LW, which has eight blocks to go."""
    trains = {"plain": 1, "repr": 1, "dsd": 2} | dict.fromkeys(
        ("lw", "lw-released"), min(8, generations)
    )
    config = tiny(method=method, generations=generations, epochs=4)
    assert budget(config) == 4 * trains.get(method, generations)


def test_no_stage_is_shorter_than_an_epoch(tiny):
    assert [stage.length(tiny(epochs=1)) for stage in plan(tiny(method="dsd"))] == [1, 1, 1]


@pytest.mark.parametrize("method", METHODS)
def test_trained_budget_is_the_declared_one(tiny, everyone, method):
    config = tiny(method=method, epochs=2)
    found = [record for record in everyone[0][method] if record["kind"] == "generation"]
    assert sum(len(record["result"]["curve"]) for record in found) == budget(config)
    assert [record["generation"] for record in found] == list(range(1, len(plan(config)) + 1))


@pytest.mark.parametrize("method", METHODS)
def test_same_config_same_bits(everyone, method):
    first, again = everyone
    assert results(first[method]) == results(again[method])


def test_another_seed_gives_another_result(tiny, everyone):
    (other,) = run.run(tiny(method="plain", epochs=2, seed=1))
    assert other["result"] != everyone[0]["plain"][0]["result"]


def test_methods_differ_after_the_first_generation(everyone):
    """No two of them train alike: the last weights of all are distinct, but for RePr, which drops
    nothing in so few epochs."""
    last = {
        method: [record for record in found if record["kind"] == "generation"][-1]["result"]
        for method, found in everyone[0].items()
        if method != "repr"
    }
    assert len({result["weights"] for result in last.values()}) == len(METHODS) - 1


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("long", "repr")])
def test_methods_share_the_first_generation(everyone, method):
    """Read, not trained again: even the timing is the same."""
    assert everyone[0][method][0] == everyone[0]["plain"][0]


def test_fewer_generations_are_a_prefix_of_more(tiny):
    short = run.run(tiny(method="dnr", generations=2))
    long = run.run(tiny(method="dnr", generations=4))
    assert long[: len(short)] == short


@pytest.mark.parametrize("method", ["ke", "ke-wels", "dnr"])
def test_child_inherits_kept_weights_bit_for_bit_and_nothing_else(tiny, method, monkeypatch):
    """At birth, before the first step: kept weights, biases, batch normalisation and its running
    statistics are the parent's; every reset weight has changed, to a value within the fill's
    bounds."""
    config = tiny(method=method, generations=2)
    born = {}

    def capture(model, batches, epochs, **rest):
        if batches.generation == 2:
            born.update({name: value.clone() for name, value in model.state_dict().items()})
        return trained(model, batches, epochs, **rest)

    trained = train.train
    monkeypatch.setattr(train, "train", capture)
    run.run(config)
    link = chain(config)[0]
    parent = weights(link)
    mask = Store().mask(link.mask)
    assert set(mask) < set(parent)
    for name, value in parent.items():
        kept = mask.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(born[name][kept], value[kept]), name
        reset = born[name][~kept]
        assert not (reset == value[~kept]).any(), name
        if reset.numel():
            assert reset.abs().max() <= value[0].numel() ** -0.5, name
    assert sum(int((~kept).sum()) for kept in mask.values()) > 0


def test_the_steps_of_the_quickstart_are_those_of_a_run(tiny):
    """Bit for bit: build, train, score, mask, reinitialise, train."""
    config = tiny(method="dnr", generations=2, width=8)
    data = load(config)
    model = build(config)
    train.train(model, Training(data, config, 1), config.epochs, config)
    parent = rules.Parent(model, data, config, generation=1)
    mask, _ = rules.Top(rules.Snip(config.probe), config.keep).mask(parent)
    plan(config)[1].begin(parent, mask)
    train.train(model, Training(data, config, 2), config.epochs, config)
    found = run.run(config)
    assert records.tensors_digest(mask) == found[1]["result"]["mask"]
    assert records.tensors_digest(model.state_dict()) == found[2]["result"]["weights"]


def test_tuning_resets_nothing(tiny, monkeypatch):
    called = []
    monkeypatch.setattr(Generation, "begin", lambda *arguments: called.append(arguments))
    found = run.run(tiny(method="tune"))
    assert not called
    birth = [record["result"]["birth_accuracy"] for record in found]
    end = [record["result"]["test_accuracy"] for record in found]
    assert birth[1:] == end[:-1]


@pytest.mark.parametrize("method", ["ke", "ke-wels", "dnr"])
def test_a_mask_after_every_generation_and_the_last_never_applied(tiny, method):
    config = tiny(method=method)
    found = run.run(config)
    kinds = [(record["kind"], record["generation"]) for record in found]
    assert kinds == [(kind, g) for g in (1, 2, 3) for kind in ("generation", "mask")]
    assert "with_previous" not in found[1]["result"]
    for record in found[3::2]:
        assert record["result"].keys() >= {"with_previous", "with_first", "masked_accuracy"}


def test_recorded_counts_are_those_of_the_stored_masks(tiny):
    config = tiny(method="dnr")
    found = run.run(config)
    links = chain(config)
    walk = Walk(config, Store(), torch.device("cpu"))
    stored = [walk.store.mask(link.mask) for link in links]
    for position, record in enumerate(found[1::2]):
        result = record["result"]
        mask = stored[position]
        for name, values in mask.items():
            assert result["size"][name] == values.numel()
            assert result["kept"][name] == int(values.sum())
            if position:
                before, first = stored[position - 1][name], stored[0][name]
                assert result["with_previous"][name] == int((values & before).sum())
                assert result["with_first"][name] == int((values & first).sum())
        total = sum(result["size"].values())
        assert sum(result["kept"].values()) == round(config.keep * total)
        trainee = walk.open(position)
        at = rules.Parent(trainee.model, trainee.data, config, position + 1, sample=1)
        assert result["with_resampled"] == masks.both(mask, links[position].next_keep.mask(at)[0])
        assert sum(result["with_resampled"].values()) < sum(result["kept"].values())
        assert sum(result["zero_saliency"].values()) < total


def test_masks_change_for_dnr_and_stay_for_ke(tiny):
    stays = {"dnr": False, "ke": True, "ke-wels": True, "ke-wels-rand": False}
    for method, fixed in stays.items():
        found = run.run(tiny(method=method, width=8))
        last = found[-1]["result"]
        assert (last["with_previous"] == last["kept"]) is fixed, method


def test_masked_accuracy_leaves_the_network_as_it_was(tiny):
    config = tiny(method="dnr", generations=1)
    walk = Walk(config, Store(), torch.device("cpu"))
    trainee = walk.open(-1)
    before = {name: value.clone() for name, value in trainee.model.state_dict().items()}
    draw = stream(0, 0, "test")
    mask = {
        name: torch.rand(value.shape, generator=draw) < 0.9
        for name, value in trainee.model.named_parameters()
    }
    accuracy = trainee.masked_accuracy(mask)
    after = trainee.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    with torch.no_grad():
        for name, weight in trainee.model.named_parameters():
            weight[~mask[name]] = 0
    assert accuracy == trainee.measure(trainee.data.evaluation)[0]


def test_fill_does_not_depend_on_the_mask(tiny):
    """The same weight gets the same new value whichever others are kept."""
    config = tiny()
    children = []
    for share in (0.2, 0.6):
        walk = Walk(config, Store(), torch.device("cpu"))
        trainee = walk.open(-1)
        mask = {
            name: torch.arange(value.numel()).view(value.shape) < share * value.numel()
            for name, value in prunable(trainee.model).items()
        }
        parent = rules.Parent(trainee.model, trainee.data, config, generation=1)
        plan(config)[1].begin(parent, mask)
        children.append((mask, prunable(trainee.model)))
    (few, a), (more, b) = children
    for name in few:
        assert torch.equal(a[name][~more[name]], b[name][~more[name]])
        assert not torch.equal(a[name][~few[name]], b[name][~few[name]])


# --------------------------------------------------------------------------------------------------
# Interruption, damage, company


def killed(config, moment):
    """Runs a config in a process that kills itself with SIGKILL at a moment: the training of a
    generation, or the writing of a file of a link, of which a part is left behind."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        return
    trained, written = train.train, records.write

    def train_until(model, batches, epochs, **rest):
        if (batches.generation, "training") == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return trained(model, batches, epochs, **rest)

    def write_until(path, content):
        if (path.parent.name, path.suffix) == moment:
            path.with_name(f".{path.name}-partial").write_bytes(content[:100])
            os.kill(os.getpid(), signal.SIGKILL)
        return written(path, content)

    try:
        train.train, records.write = train_until, write_until
        run.run(config)
    finally:
        os._exit(1)


@pytest.mark.fault(
    "a run is killed in training or in writing a file",
    "goes on from the last whole generation, with the same result",
)
@POSIX
@pytest.mark.parametrize("method", ["tune", "dsd", "ban", "lw", "ke", "ke-wels-rand", "dnr"])
def test_killed_and_resumed_equals_undisturbed(tiny, tmp_path, method):
    """SIGKILL in the training of generations 2 and 3, and while each kind of file is written."""
    config = tiny(method=method)
    undisturbed = results(run.run(config, tmp_path / "undisturbed"))
    second, third = (link.key for link in chain(config)[1:])
    for moment in ((2, "training"), (second, ".pt"), (second, ".json"), (3, "training")):
        killed(config, moment)
    if method == "dnr":
        killed(config, (third, ".npz"))
    assert results(run.run(config)) == undisturbed


@pytest.mark.fault("two processes want the same generation", "one trains it, the other waits")
@POSIX
def test_two_processes_never_train_the_same_link(tiny, tmp_path, monkeypatch):
    trained, log = train.train, tmp_path / "trained"

    def slow(model, batches, epochs, **rest):
        with log.open("a") as file:
            file.write(f"{batches.generation}\n")
        time.sleep(0.3)
        return trained(model, batches, epochs, **rest)

    monkeypatch.setattr(train, "train", slow)
    config = tiny(method="dnr")
    children = []
    for _ in range(2):
        children.append(os.fork())
        if not children[-1]:
            try:
                run.run(config)
                os._exit(0)
            finally:
                os._exit(1)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert log.read_text().split() == ["1", "2", "3"]
    monkeypatch.setattr(train, "train", trained)
    assert results(run.run(config)) == results(run.run(config, tmp_path / "alone"))


@pytest.mark.fault("the owner of a lock is killed", "nobody waits for it")
@POSIX
def test_a_dead_owner_of_a_lock_blocks_nobody(tmp_path):
    code = (
        "import os, signal, sys; from filelock import FileLock; "
        "FileLock(sys.argv[1]).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")])
    with FileLock(tmp_path / "lock", timeout=1):
        pass


@pytest.mark.fault(
    "a file of a run is cut short, changed or garbage",
    "named, with what to delete or fetch; nothing of it is used",
)
@pytest.mark.parametrize("name", ["weights.pt", "record.json", "mask.npz", "mask.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "garbage"])
def test_damaged_files_are_named_and_never_used(tiny, name, damage):
    config = tiny(method="dnr", generations=2)
    run.run(config)
    first, second = (records.runs_root() / link.key for link in chain(config))
    path = next(first.glob(name.replace("mask", "mask-*")))
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    elif damage == "garbage":
        content = b"\xff\xfe\x00"
    elif path.suffix == ".json":
        content = content.replace(b"_accuracy", b"_akkuracy", 1)
    else:
        # The middle of the largest tensor, beyond the reach of headers.
        content[len(content) // 2] ^= 0x40
    path.write_bytes(bytes(content))
    (second / "record.json").unlink()
    with pytest.raises(records.DamagedFile, match=path.name) as error:
        run.run(config)
    assert f"delete the folder {first}" in str(error.value)


def test_float32_is_no_tf32_during_a_run_and_all_is_as_before_after_it(tiny):
    cudnn, seen = torch.backends.cudnn, []

    def settings(*_):
        seen.append((cudnn.conv.fp32_precision, cudnn.deterministic, torch.get_num_threads()))

    settings()
    run.run(tiny(method="plain"), report=settings)
    with pytest.raises(UserError, match="enough"), run.arithmetic(1):
        raise UserError("enough")
    settings()
    before, during, after = seen
    assert before[:2] == ("tf32", False)
    assert during == ("ieee", True, 1)
    assert after == before


@pytest.mark.fault(
    "a file of another run lies in its place",
    "named, with what to delete or fetch; nothing of it is used",
)
def test_weights_of_another_run_are_not_used(tiny):
    config, other = tiny(method="tune", generations=2), tiny(method="tune", generations=2, seed=1)
    run.run(config)
    run.run(other)
    root = records.runs_root()
    mine, theirs = (root / chain(c)[0].key / "weights.pt" for c in (config, other))
    mine.write_bytes(theirs.read_bytes())
    (root / chain(config)[1].key / "record.json").unlink()
    with pytest.raises(records.DamagedFile, match="not those of its record"):
        run.run(config)


def test_a_parent_trained_anew_elsewhere_is_noticed(tiny, monkeypatch):
    """Its folder is deleted, and another processor trains it to other last bits."""
    config = tiny(method="dnr")
    run.run(config)
    first, second = (records.runs_root() / link.key for link in chain(config)[:2])
    shutil.rmtree(first)
    rate = train.learning_rate
    monkeypatch.setattr(train, "learning_rate", lambda *given: rate(*given) * 1.0001)
    with pytest.raises(records.DamagedFile, match="trained anew since") as error:
        run.run(config)
    assert f"delete the folder {second}" in str(error.value)
    with pytest.raises(records.DamagedFile, match="trained anew since"):
        Archive(published=False).find(config)


@pytest.mark.fault("a training diverges", "one line that says what is wrong")
def test_a_diverging_run_names_epoch_and_rate(tiny):
    with pytest.raises(UserError, match=r"in epoch \d+ of 5, at learning rate") as error:
        run.run(tiny(method="plain", lr=1e30, epochs=5))
    assert "lower lr" in str(error.value)


def test_a_run_whose_last_step_diverges_leaves_one_error_and_no_record(tiny):
    """One batch per epoch: its loss is that before the step."""
    with pytest.raises(UserError, match="the loss on images is nan; lower lr"):
        run.run(tiny(lr=1e30, batch=40, generations=1))
    assert not list(records.runs_root().rglob("record.json"))


def test_a_chain_is_not_continued_on_another_device(tiny):
    config = tiny(method="plain")
    run.run(config)
    path = records.runs_root() / chain(config)[0].key / "record.json"
    record = records.read(path)
    record["provenance"]["device"] = "cuda"
    records.save(path, record)
    with pytest.raises(UserError, match="was trained on cuda, this run is on cpu"):
        run.run(config, device="cpu")


def test_records_hold_what_they_promise(tiny):
    generation, mask = run.run(tiny(method="dnr", generations=2))[:2]
    assert generation["config"]["lr"] == 0.1
    assert generation["stage"] == canonical(plan(tiny())[0])
    assert generation["provenance"].keys() == {
        *("package", "commit", "results", "torch", "python", "device", "processor", "threads")
    }
    assert generation["timing"]["images_per_second"] > 0
    assert mask["of"] == generation["key"]
    assert mask["keep"] == {"Top": {"score": {"Snip": {"probe": 0.2}}, "share": 0.8}}
    for record in (generation, mask):
        assert record == json.loads(json.dumps(record))


@pytest.mark.skipif(sys.platform != "linux", reason="a shim is preloaded on Linux only")
@pytest.mark.parametrize(("answer", "maker"), [(1, "Intel"), (0, "AMD")])
def test_provenance_says_where_mkl_takes_its_way_for_another_maker(tmp_path, answer, maker):
    """A run with other last bits must not pass for one of the same machine without the shim."""
    shim, source = tmp_path / "shim.so", f"int mkl_serv_intel_cpu_true(void) {{ return {answer}; }}"
    made = shutil.which("gcc") and subprocess.run(
        ["gcc", "-shared", "-fPIC", "-x", "c", "-o", shim, "-"], input=source, text=True
    )
    if not made or made.returncode:
        pytest.skip("no compiler")
    ask = [sys.executable, "-c", "from dnrlib.records import processor; print(processor())"]
    names = [
        subprocess.run(ask, env=os.environ | more, capture_output=True, text=True).stdout.strip()
        for more in ({}, {"LD_PRELOAD": str(shim)})
    ]
    assert names[1] == names[0] + f", MKL as on {maker}"


def test_evaluation_and_training_accuracy_are_not_mixed_up(tiny):
    """Against a plain recomputation from the stored weights."""
    config = tiny(method="plain", epochs=3, per_class=2)
    (record,) = run.run(config)
    walk = Walk(config, Store(), torch.device("cpu"))
    trainee = walk.open(0)
    data = load(config)
    for name, split in (("test", data.evaluation), ("train", data.train)):
        with torch.no_grad():
            images = (split.images.float() / 255 - data.dataset.mean[0]) / data.dataset.std[0]
            right = trainee.model.eval()(images).argmax(1) == split.labels
        expected = 100 * right.float().mean().item()
        assert record["result"][f"{name}_accuracy"] == pytest.approx(expected, abs=0.2)
    assert record["result"]["test_accuracy"] != record["result"]["train_accuracy"]


def test_several_threads_train_without_crashing(tmp_path):
    """A crash in torch 2.15 with channels-last tensors and odd batches; see models.build."""
    code = (
        "from pathlib import Path; from dnrlib.recipes import configure; "
        "from dnrlib.run import run; "
        "run(configure('digits', 'smoke', method='dnr', threads=2, per_class=3, batch=15), "
        f"Path({str(tmp_path)!r}))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


@pytest.mark.fault(
    "a file of another run lies in its place",
    "named, with what to delete or fetch; nothing of it is used",
)
@pytest.mark.parametrize("kind", ["generation", "mask"])
def test_a_sound_record_in_another_place_is_named_and_not_used(tiny, kind):
    """Its seal fits; but it is of another seed, or of another generation."""
    configs = [tiny(method="dnr", generations=2, seed=seed) for seed in (0, 1)]
    for config in configs:
        run.run(config)
    store = Store()
    mine, theirs = (
        [store.path(e) for link in chain(config) for e in link.entries if e.kind == kind]
        for config in configs
    )
    before = mine[0].read_text()
    for other in (theirs[0], mine[1]):
        mine[0].write_text(other.read_text())
        for use in (run.run, Archive().find):
            with pytest.raises(
                records.DamagedFile, match=rf"{mine[0].name} .*does not belong here"
            ):
                use(configs[0])
    mine[0].write_text(before)
    assert Archive().find(configs[0]).records == run.run(configs[0])


def test_masks_are_stored_in_bits(tiny):
    config = tiny(method="dnr", generations=2)
    run.run(config)
    (path,) = Path(records.runs_root() / chain(config)[0].key).glob("mask-*.npz")
    total = sum(values.numel() for values in masks.unpack(path).values())
    assert path.stat().st_size < total / 8 + 14_000, "the archive names 21 layers"


def test_dnr_runs_on_the_other_bundled_datasets(tiny):
    for dataset in ("digits-hard", "digits-32", "digits-hard-32"):
        found = run.run(configure(dataset, "smoke", method="dnr", width=4, per_class=2, epochs=1))
        assert len(found) == 4


@pytest.mark.fault("a killed process leaves half a file", "the next run deletes it")
def test_what_a_killed_process_left_is_deleted(tmp_path):
    """Its temporary files and what it counted, and nothing else."""
    store, config = Store(tmp_path), configure("digits", method="plain", epochs=1, width=4)
    link = chain(config)[0]
    folder = tmp_path / link.key
    folder.mkdir()
    (folder / ".weights.pt-a1b2c3d_").write_bytes(b"half")
    (folder / ".note").write_text("mine")
    run.run(config, tmp_path)
    there = {path.name for path in folder.iterdir()}
    assert there == {".note", "lock", "record.json", "weights.pt"}
    with store.lock(link.key):
        (folder / ".record.json-z9y8x7w6").write_bytes(b"")
        (folder / "epochs").write_bytes(b"..")
        assert store.epochs(link.trained) == 2
    with store.lock(link.key):
        assert not list(folder.glob(".record*"))
        assert store.epochs(link.trained) == 0
    nowhere = Store(tmp_path / "nowhere")
    with nowhere.counting(link.trained) as count:
        count()  # No training ends because there is no place to count in.
        assert nowhere.epochs(link.trained) == 0
    # A folder of the user's own archives is locked too, and holds what is theirs.
    (tmp_path / ".backup-20260101").write_text("mine")
    with records.lock(tmp_path):
        assert (tmp_path / ".backup-20260101").exists()


@pytest.mark.fault("the folder of a finished run can only be read", "the run opens")
def test_a_finished_run_needs_no_lock(tiny, monkeypatch):
    """In a folder that can only be read none could be made."""
    config = tiny(method="dnr", generations=2)
    first = run.run(config)

    def refused(self, link):
        raise PermissionError(link)

    monkeypatch.setattr(Store, "lock", refused)
    assert run.run(config) == first
    with pytest.raises(PermissionError):
        run.run(dataclasses.replace(config, generations=3))


@pytest.mark.fault(
    "memory is short, of the machine or the device",
    "one line with what to make smaller",
)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_too_little_memory_gives_advice(tiny, monkeypatch, error):
    def fail(*given, **named):
        raise error

    monkeypatch.setattr(train, "train", fail)
    with pytest.raises(
        UserError, match=r"not enough memory .*; use a smaller batch or width, or fewer"
    ):
        run.run(tiny(method="plain"))
    error.args = ("shapes do not fit",)
    if not isinstance(error, torch.OutOfMemoryError):
        with pytest.raises(RuntimeError, match="shapes do not fit"):
            run.run(tiny(method="plain"))


@pytest.mark.parametrize(
    "words",
    [
        ["data", "prepare", "folder:~nosuchuser/photos"],
        ["compare", "~nosuchuser/photos"],
        ["run", "--dataset", "folder:~nosuchuser/photos@64", "--method", "plain"],
    ],
)
def test_an_unknown_home_is_one_line(words, capsys):
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert "there is no such user on this machine" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("folder", ["DNRLIB_RUNS", "DNRLIB_DATA"])
def test_folders_that_the_environment_names_are_those_of_the_caller(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv(folder, "~nosuchuser/x")
    assert cli.main(["data", "list"]) == 1
    assert "there is no such user on this machine" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(folder, "mine")
    assert cli.main(["data", "list"]) == 0
    # A page is executed from elsewhere.
    assert os.environ[folder] == str(tmp_path / "mine")
