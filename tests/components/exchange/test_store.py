import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from components.errors import RefusedError, StorageError
from components.exchange.codec import WrittenFile
from components.exchange.store import FolderStore, Slot
from components.rounds import Answer, UpdateManifest
from components.weights import digest

WEIGHTS = {"w": torch.arange(5.0)}
OTHER = {"w": torch.arange(5.0) + 1}
SLOT = Slot(training="chest-1", round=2, attempt=1, site="north")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def answer_with(written: WrittenFile, **changes: Any) -> Answer:
    manifest = UpdateManifest(
        weights_digest=written.weights_digest,
        file_sha256=written.sha256,
        bytes=written.bytes,
        weight=3.0,
        steps=1,
        loss_sum=0.1,
    )
    fields = {"kind": "train", "site": "north", "round": 2, "nonce": "n", "status": "done", "update": manifest}
    return Answer(**{**fields, **changes})


def files(store: FolderStore) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def test_weights_are_found_by_their_digest(store: FolderStore) -> None:
    name = store.put_weights(WEIGHTS)
    assert name == digest(WEIGHTS)
    assert name in store
    assert digest(store.get(name)) == name
    assert store.path(name).is_file()


def test_putting_the_same_weights_twice_is_one_object(store: FolderStore) -> None:
    assert store.put_weights(WEIGHTS) == store.put_weights(WEIGHTS)
    assert files(store) == [f"objects/{digest(WEIGHTS)}.safetensors"]


def test_a_damaged_object_is_found_named_and_healed_by_putting_it_again(store: FolderStore) -> None:
    name = store.put_weights(WEIGHTS)
    data = bytearray(store.path(name).read_bytes())
    data[-1] ^= 1
    store.path(name).write_bytes(data)
    with pytest.raises(StorageError, match=f"weights {name} in the store are damaged.*restore that file"):
        store.get(name)
    store.put_weights(WEIGHTS)
    assert digest(store.get(name)) == name


def test_weights_are_mended_from_memory_where_they_are_damaged_or_gone(store: FolderStore) -> None:
    name = store.put_weights(WEIGHTS)
    assert not store.mend(name, WEIGHTS)
    store.path(name).write_bytes(b"x" + store.path(name).read_bytes()[1:])
    assert store.mend(name, WEIGHTS)
    store.path(name).unlink()
    assert store.mend(name, WEIGHTS)
    assert digest(store.get(name)) == name
    with pytest.raises(StorageError, match=f"weights {'0' * 64} in the store are damaged"):
        store.mend("0" * 64, WEIGHTS)


def test_weights_that_are_not_there_are_named(store: FolderStore) -> None:
    with pytest.raises(StorageError, match=f"weights {'0' * 64} are not in the store .*backup"):
        store.get("0" * 64)


TRAVERSALS = [
    "..",
    ".",
    "",
    "/etc",
    "a/b",
    "../../x",
    "a\\b",
    "a\0b",
    "%2e%2e",
    "ä",
    "\uff0e\uff0e",
    "a\n",
    "-x",
    ".hidden",
    "a" * 64,
]


@pytest.mark.parametrize("name", [*TRAVERSALS, 3, None])
@pytest.mark.parametrize("field", ["training", "site"])
def test_names_that_could_lead_elsewhere_are_refused(name: str, field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must match"):
        Slot(**{"training": "t", "round": 1, "attempt": 1, "site": "s", field: name})


@pytest.mark.parametrize("number", [0, -1, 1.0, True, "1", "../1"])
@pytest.mark.parametrize("field", ["round", "attempt"])
def test_numbers_of_rounds_are_numbers(number: Any, field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be a whole number"):
        Slot(**{"training": "t", "round": 1, "attempt": 1, "site": "s", field: number})


@pytest.mark.parametrize("name", ["../" + "0" * 61, "0" * 63, "A" * 64, "0" * 64 + "\n", "0" * 64 + "/x"])
def test_digests_are_digests(store: FolderStore, name: str) -> None:
    with pytest.raises(ValueError, match="64 lower-case hexadecimal"):
        store.get(name)


def test_an_update_is_written_sealed_and_read_back(store: FolderStore) -> None:
    written = store.put_update(SLOT, WEIGHTS)
    assert store.slot_answer(SLOT) is None
    answer = answer_with(written)
    assert store.submit(SLOT, answer)
    assert store.slot_answer(SLOT) == answer
    assert digest(store.get_update(SLOT, answer.update)) == digest(WEIGHTS)


def test_the_same_delivery_twice_is_accepted_once(store: FolderStore) -> None:
    answer = answer_with(store.put_update(SLOT, WEIGHTS), seconds={"train": 1.0})
    assert store.submit(SLOT, answer)
    before = files(store)
    again = answer_with(store.put_update(SLOT, WEIGHTS), seconds={"train": 2.0})
    assert not store.submit(SLOT, again)
    assert store.slot_answer(SLOT) == answer
    assert files(store) == before


def test_a_sealed_slot_cannot_be_changed(store: FolderStore) -> None:
    answer = answer_with(store.put_update(SLOT, WEIGHTS))
    store.submit(SLOT, answer)
    before = files(store)
    with pytest.raises(RefusedError, match=r"north in round 2 .* is sealed with another answer"):
        store.put_update(SLOT, OTHER)
    with pytest.raises(RefusedError, match="sealed with another answer"):
        store.submit(SLOT, answer.model_copy(update={"nonce": "other"}))
    assert store.slot_answer(SLOT) == answer
    assert files(store) == before


def test_an_interrupted_site_may_write_again_until_it_submits(store: FolderStore) -> None:
    store.put_update(SLOT, OTHER)
    answer = answer_with(store.put_update(SLOT, WEIGHTS))
    assert store.submit(SLOT, answer)
    assert digest(store.get_update(SLOT, answer.update)) == digest(WEIGHTS)


def test_a_refusal_seals_a_slot_without_an_update(store: FolderStore) -> None:
    refusal = Answer(kind="train", site="north", round=2, nonce="n", status="refused", reason="policy")
    assert store.submit(SLOT, refusal)
    with pytest.raises(RefusedError, match="sealed"):
        store.put_update(SLOT, WEIGHTS)


@pytest.mark.parametrize(("field", "value"), [("site", "south"), ("round", 3)])
def test_an_answer_for_another_slot_is_refused(store: FolderStore, field: str, value: Any) -> None:
    answer = answer_with(store.put_update(SLOT, WEIGHTS), **{field: value})
    with pytest.raises(RefusedError, match="does not belong to north in round 2"):
        store.submit(SLOT, answer)
    assert store.slot_answer(SLOT) is None


def test_an_answer_without_its_file_is_refused(store: FolderStore) -> None:
    written = FolderStore(store.root.parent / "elsewhere").put_update(SLOT, WEIGHTS)
    with pytest.raises(RefusedError, match="there is none"):
        store.submit(SLOT, answer_with(written))


def test_a_file_of_another_size_is_refused(store: FolderStore) -> None:
    answer = answer_with(store.put_update(SLOT, WEIGHTS))
    wrong = answer.update.model_copy(update={"bytes": answer.update.bytes + 1})
    for refuse in (
        lambda: store.submit(SLOT, answer.model_copy(update={"update": wrong})),
        lambda: store.get_update(SLOT, wrong),
    ):
        with pytest.raises(RefusedError, match=f"it has {answer.update.bytes}"):
            refuse()


def test_an_update_changed_after_it_was_sealed_is_refused(store: FolderStore) -> None:
    answer = answer_with(store.put_update(SLOT, WEIGHTS))
    store.submit(SLOT, answer)
    path = next((store.root / "slots").rglob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RefusedError, match="changed or damaged"):
        store.get_update(SLOT, answer.update)


def test_an_answer_without_end_is_refused(store: FolderStore) -> None:
    answer = answer_with(store.put_update(SLOT, WEIGHTS), details={"x": "y" * (1 << 20)})
    with pytest.raises(RefusedError, match="at most 1048576"):
        store.submit(SLOT, answer)


def test_a_damaged_answer_is_named(store: FolderStore) -> None:
    store.submit(SLOT, answer_with(store.put_update(SLOT, WEIGHTS)))
    next((store.root / "slots").rglob("answer.json")).write_text('{"kind": "train"')
    with pytest.raises(StorageError, match=r"answer of north in round 2 .* is damaged: delete its answer\.json"):
        store.slot_answer(SLOT)


def test_of_many_different_answers_at_once_exactly_one_seals_the_slot(store: FolderStore) -> None:
    written = store.put_update(SLOT, WEIGHTS)

    def seal(number: Any) -> bool | None:
        try:
            return store.submit(SLOT, answer_with(written, nonce=str(number)))
        except RefusedError:
            return None

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(seal, range(16)))
    assert outcomes.count(True) == 1
    assert outcomes.count(None) == 15
    assert store.slot_answer(SLOT).nonce == str(outcomes.index(True))


WRITER = """
import sys, torch
from components.exchange.store import FolderStore
store = FolderStore(sys.argv[1])
for seed in range(20):
    store.put_weights({"w": torch.full((1000,), float(seed))})
"""


def start(script: str, *arguments: object) -> subprocess.Popen[bytes]:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], cwd=root, stderr=subprocess.PIPE)


def test_two_processes_may_write_the_same_objects_at_the_same_time(store: FolderStore) -> None:
    writers = [start(WRITER, store.root) for _ in range(2)]
    assert [writer.communicate(timeout=120)[1] for writer in writers] == [b"", b""]
    names = [digest({"w": torch.full((1000,), float(seed))}) for seed in range(20)]
    assert files(store) == sorted(f"objects/{name}.safetensors" for name in names)
    assert all(digest(store.get(name)) == name for name in names)


# Kills itself the moment before the whole temporary file gets its name.
KILLED = """
import os, signal, sys, torch
from components.exchange.store import FolderStore, Slot
from components.rounds import Answer
store, event = FolderStore(sys.argv[1]), sys.argv[2]
slot = Slot(training="chest-1", round=2, attempt=1, site="north")
sys.addaudithook(lambda name, _: os.kill(os.getpid(), signal.SIGKILL) if name == event else None)
if event == "os.rename":
    store.put_weights({"w": torch.arange(5.0) + 1})
store.submit(slot, Answer(kind="train", site="north", round=2, nonce="n", status="refused"))
"""


@pytest.mark.parametrize("event", ["os.rename", "os.link"])
def test_kill_9_before_a_file_gets_its_name_leaves_the_old_state_whole(store: FolderStore, event: str) -> None:
    name = store.put_weights(WEIGHTS)
    child = start(KILLED, store.root, event)
    child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    assert digest(store.get(name)) == name
    assert digest(OTHER) not in store
    assert store.slot_answer(SLOT) is None
    assert len(files(store)) == 2  # the object, and what was left behind
    assert store.sweep({name}, open_rounds=[("chest-1", 2)]) > 0
    assert files(store) == [f"objects/{name}.safetensors"]


def age(store: FolderStore, seconds: float) -> None:
    past = time.time() - seconds
    for path in [*store.root.rglob("*")]:
        os.utime(path, (past, past))


def test_a_sweep_keeps_what_is_named_and_frees_the_rest(store: FolderStore) -> None:
    kept, dropped = store.put_weights(WEIGHTS), store.put_weights(OTHER)
    size = store.path(dropped).stat().st_size
    age(store, 7200)
    assert store.sweep({kept}) == size
    assert files(store) == [f"objects/{kept}.safetensors"]
    assert store.sweep({kept}) == 0


def test_a_sweep_keeps_the_slots_of_open_rounds(store: FolderStore) -> None:
    for number in (2, 3, 20):
        slot = Slot(training="chest-1", round=number, attempt=1, site="north")
        store.submit(slot, answer_with(store.put_update(slot, WEIGHTS), round=number))
    age(store, 7200)
    store.sweep(set(), open_rounds=[("chest-1", 2), ("chest-2", 3)])
    assert {path.split("/")[2] for path in files(store)} == {"2"}
    assert not (store.root / "slots" / "chest-1" / "20").exists()
    assert store.slot_answer(SLOT) is not None


def test_a_sweep_leaves_what_is_young(store: FolderStore) -> None:
    store.put_weights(WEIGHTS)
    store.put_update(SLOT, WEIGHTS)
    before = files(store)
    assert store.sweep(set()) == 0
    assert files(store) == before


def test_sweeps_side_by_side_do_not_trip_over_each_other(store: FolderStore) -> None:
    for number in range(1, 150):
        store.put_update(Slot(training="done", round=number, attempt=1, site="north"), WEIGHTS)
    for path in [*store.root.rglob("*")]:
        os.utime(path, (1, 1))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: store.sweep([]), range(8)))
    assert not [path for path in store.root.rglob("*") if path.is_file()]


def test_a_sweep_of_nothing_frees_nothing(store: FolderStore) -> None:
    assert store.sweep(set()) == 0


def test_a_store_that_may_not_be_written_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    if os.geteuid() != 0 and not hasattr(os, "seteuid"):
        pytest.skip("needs users")
    folder = tmp_path_factory.mktemp("locked")
    (folder / "objects").mkdir()
    (folder / "objects").chmod(0o555)
    opened = [path for path in [folder, *folder.parents] if path.owner() == folder.owner() and path != path.parent]
    was_root = os.geteuid() == 0
    modes = {path: path.stat().st_mode for path in opened if was_root and not path.stat().st_mode & 0o001}
    try:
        for path in modes:
            path.chmod(0o755)
        if was_root:
            os.seteuid(65534)
        with pytest.raises(StorageError, match="no permission"):
            FolderStore(folder).put_weights(WEIGHTS)
    finally:
        if was_root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_disk_is_named_and_leaves_the_old_state_whole(small_disk: Path) -> None:
    store = FolderStore(small_disk / "store")
    name = store.put_weights(WEIGHTS)
    with pytest.raises(StorageError, match="the disk is full: free space, then run again"):
        store.put_weights({"w": torch.zeros(100_000)})
    assert files(store) == [f"objects/{name}.safetensors"]
    assert digest(store.get(name)) == name


def test_a_limit_on_file_size_is_named_and_leaves_no_half_file(store: FolderStore) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match=r"larger than .*ulimit"):
            store.put_weights({"w": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(store) == []
