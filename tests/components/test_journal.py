"""The journal keeps what it returned, whatever happens to the process, the disk or the file."""

import hashlib
import json
import os
import signal
import string
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import JournalError, StorageError
from components.journal import Journal, read, verify
from components.journal_lines import GENESIS, MAX_LINE_BYTES

ROOT = Path(__file__).parents[2]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
EVENTS = st.lists(
    st.tuples(st.sampled_from(["planned", "committed"]), st.dictionaries(st.text(), JSON, max_size=3)), max_size=5
)


def run_child(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def dumped(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def three_lines(path: Path) -> list[bytes]:
    with Journal.open(path) as journal:
        journal.append("planned", round=1, roster=["east", "north"])
        journal.append("committed", round=1, auroc=0.1 + 0.2)
        journal.append("planned", round=2, roster=["east"])
    return path.read_bytes().splitlines(keepends=True)


def test_first_line_has_the_documented_form_and_hash(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal.jsonl") as journal:
        entry = journal.append("planned", round=1)
    line = (tmp_path / "journal.jsonl").read_text()
    body = f'{{"data":{{"round":1}},"event":"planned","previous":"{GENESIS}","seq":1,"time":"{entry.time}"}}'
    assert entry.hash == hashlib.sha256(body.encode()).hexdigest()
    assert json.loads(line) == json.loads(body) | {"hash": entry.hash}
    assert line == json.dumps(json.loads(line), sort_keys=True, separators=(",", ":")) + "\n"


@settings(max_examples=40, deadline=None)
@given(events=EVENTS)
def test_what_was_appended_is_read_verified_and_found_again(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, dict[str, object]]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "journal.jsonl"
    with Journal.open(path) as journal:
        written = tuple(journal.append(event, **data) for event, data in events)
    assert read(path) == written == Journal.open(path, drive=False).entries
    assert [dumped(entry.data) for entry in written] == [dumped(json.loads(json.dumps(data))) for _, data in events]
    report = verify(path)
    assert (report.entries, report.torn_bytes) == (len(events), 0)
    assert report.head == (written[-1].hash if written else GENESIS)


def test_floats_round_trip(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 5e-324, -0.0, 1.7976931348623157e308, 1e22, 1 / 3]
    with Journal.open(tmp_path / "j") as journal:
        journal.append("metrics", values=values)
    assert [value.hex() for value in read(tmp_path / "j")[0].data["values"]] == [value.hex() for value in values]


def test_find_and_last_match_event_and_data(tmp_path: Path) -> None:
    three_lines(tmp_path / "j")
    journal = Journal.open(tmp_path / "j", drive=False)
    assert [entry.seq for entry in journal.find("planned")] == [1, 3]
    assert [entry.seq for entry in journal.find("planned", roster=["east"])] == [3]
    assert journal.last("committed", round=1) == journal.entries[1]
    assert journal.last("committed", round=2) is None


def test_appending_goes_on_after_opening_again(tmp_path: Path) -> None:
    three_lines(tmp_path / "deep" / "down" / "j")
    with Journal.open(tmp_path / "deep" / "down" / "j") as journal:
        assert journal.append("committed", round=2).seq == 4
    assert verify(tmp_path / "deep" / "down" / "j").entries == 4


@pytest.mark.parametrize(
    ("event", "data", "problem"),
    [
        ("planned", {"auroc": float("nan")}, "Out of range float values are not JSON compliant"),
        ("planned", {"auroc": float("inf")}, "Out of range float values are not JSON compliant"),
        ("planned", {"path": Path("x")}, "is not JSON serializable"),
        ("planned", {"counts": {1: 2}}, "keys must be text, given 1"),
        ("planned", {"blob": "x" * MAX_LINE_BYTES}, "keep its data in a file"),
        ("Planned it", {}, "event must be lower-case letters"),
    ],
)
def test_append_refuses_what_is_not_json_and_writes_nothing(
    tmp_path: Path, event: str, data: dict[str, object], problem: str
) -> None:
    with Journal.open(tmp_path / "j") as journal:
        with pytest.raises(ValueError, match=problem):
            journal.append(event, **data)
        assert journal.append("planned").seq == 1
    assert verify(tmp_path / "j").entries == 1


def test_threads_of_one_process_append_one_after_the_other(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j") as journal:
        threads = [threading.Thread(target=lambda: [journal.append("registered") for _ in range(10)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert verify(tmp_path / "j").entries == 40


# Tampering


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "tampered.jsonl"
    path.unlink(missing_ok=True)
    content = b"".join(three_lines(path))
    # The very last byte, a line's end, is left out: without it the line is one that a crash left unfinished.
    place = data.draw(st.integers(0, len(content) - 2))
    other = data.draw(st.integers(0, 255).filter(lambda value: value != content[place]))
    path.write_bytes(content[:place] + bytes([other]) + content[place + 1 :])
    line = content[:place].count(b"\n") + 1
    with pytest.raises(JournalError, match=rf"tampered.jsonl, line ({line}|{line + 1}): .*Nothing was repaired"):
        verify(path)


@pytest.mark.parametrize(
    ("change", "line", "problem"),
    [
        (lambda a, b, c: [b, c], 1, "has seq 2, expected 1"),
        (lambda a, b, c: [a, c], 2, "has seq 3, expected 2"),
        (lambda a, b, c: [a, a, b, c], 2, "has seq 1, expected 2"),
        (lambda a, b, c: [a, c, b], 2, "has seq 3, expected 2"),
        (lambda a, b, c: [a, b"\n", b, c], 2, "is not JSON"),
        (lambda a, b, c: [a, b.replace(b":", b": ", 1), c], 2, "is not written in canonical JSON"),
        (lambda a, b, c: [a, b.replace(b'"round":1', b'"round":2'), c], 2, "expected .*: it was changed"),
        (lambda a, b, c: [a, b.replace(b'"round":1', b'"round":1,"round":1'), c], 2, "canonical"),
        (lambda a, b, c: [a.replace(GENESIS.encode(), b"0" * 64), b, c], 1, "expected the start of a 'wardround"),
        (lambda a, b, c: [a, b[:-2] + b',"more":1}\n', c], 2, "does not have exactly the fields"),
        (lambda a, b, c: [a, b.replace(b'"seq":2', b'"seq":2.0'), c], 2, "fields .* with their types"),
        (lambda a, b, c: [a, b"[" * 100_000 + b"\n", c], 2, "is not JSON"),
        (lambda a, b, c: [a, b, b"x" * (MAX_LINE_BYTES + 1)], 3, "is longer than"),
        (lambda a, b, c: [a, b, b"\0" * 40 + b"\n"], 3, "is not JSON"),
    ],
)
def test_damage_names_the_line_and_is_never_repaired(tmp_path: Path, change: object, line: int, problem: str) -> None:
    path = tmp_path / "j"
    damaged = b"".join(change(*three_lines(path)))  # type: ignore[operator]
    path.write_bytes(damaged)
    for act in (verify, read, Journal.open):
        with pytest.raises(JournalError, match=rf"j, line {line}: the line .*{problem}"):
            act(path)
    assert path.read_bytes() == damaged
    assert not list(tmp_path.glob("*.torn-*"))


def test_a_rehashed_line_breaks_the_line_after_it(tmp_path: Path) -> None:
    a, b, c = three_lines(tmp_path / "j")
    body = json.loads(b) | {"data": {"round": 1, "auroc": 0.99}}
    del body["hash"]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    forged = body | {"hash": hashlib.sha256(text.encode()).hexdigest()}
    (tmp_path / "j").write_bytes(a + json.dumps(forged, sort_keys=True, separators=(",", ":")).encode() + b"\n" + c)
    with pytest.raises(JournalError, match=r"line 3: the line follows .*, expected the hash of the line before"):
        verify(tmp_path / "j")


# Crashes


@pytest.mark.parametrize("missing", [1, 2, 40, 10_000])
def test_an_unfinished_last_line_is_set_aside_and_recorded(tmp_path: Path, missing: int) -> None:
    a, b, c = three_lines(tmp_path / "j")
    torn = c[: max(1, len(c) - missing)]
    (tmp_path / "j").write_bytes(a + b + torn)
    assert len(read(tmp_path / "j")) == 2
    assert verify(tmp_path / "j").torn_bytes == len(torn)
    with Journal.open(tmp_path / "j") as journal:
        event = journal.entries[2]
        assert (event.event, event.data["bytes"]) == ("torn_line_dropped", len(torn))
        assert (tmp_path / event.data["kept"]).read_bytes() == torn
        assert event.data["sha256"] == hashlib.sha256(torn).hexdigest()
    assert [entry.event for entry in Journal.open(tmp_path / "j").entries] == [
        "planned", "committed", "torn_line_dropped",
    ]  # fmt: skip


APPEND = """
import sys
from components.journal import Journal
with Journal.open(sys.argv[1]) as journal:
    for round_number in range(1, 6):
        journal.append("planned", round=round_number)
        journal.append("committed", round=round_number)
"""


@pytest.mark.parametrize(
    ("place", "entries"),
    [
        ("journal.before:planned", 0),
        ("journal.after:planned", 1),
        ("journal.before:committed:3", 5),
        ("journal.after:committed:3", 6),
    ],
)
def test_a_killed_process_leaves_exactly_what_append_returned(tmp_path: Path, place: str, entries: int) -> None:
    child = run_child(APPEND, tmp_path / "j", WARDROUND_FAILPOINT=place)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert verify(tmp_path / "j").entries == entries
    again = run_child(APPEND, tmp_path / "j", WARDROUND_FAILPOINT="")
    assert again.returncode == 0, again.stderr
    assert verify(tmp_path / "j").entries == entries + 10


@pytest.mark.parametrize("place", ["journal.before:torn_line_dropped", "journal.after:torn_line_dropped"])
def test_a_crash_while_dropping_a_torn_line_records_it_once(tmp_path: Path, place: str) -> None:
    a, b, c = three_lines(tmp_path / "j")
    (tmp_path / "j").write_bytes(a + b + c[:50])
    child = run_child(APPEND, tmp_path / "j", WARDROUND_FAILPOINT=place)
    assert child.returncode == -signal.SIGKILL, child.stderr
    journal = Journal.open(tmp_path / "j")
    [event] = journal.find("torn_line_dropped")
    assert (tmp_path / event.data["kept"]).read_bytes() == c[:50]


def test_a_failpoint_of_another_name_does_nothing(tmp_path: Path) -> None:
    child = run_child(APPEND, tmp_path / "j", WARDROUND_FAILPOINT="journal.before:plan")
    assert child.returncode == 0, child.stderr


# One driver


HOLD = """
import sys
from components.journal import Journal
journal = Journal.open(sys.argv[1])
journal.append("planned")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_told_who_drives(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "j")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(JournalError, match=rf"process {holder.pid} on .* is driving this journal; wait for it"):
            Journal.open(tmp_path / "j")
        assert len(read(tmp_path / "j")) == 1
        holder.kill()
    Journal.open(tmp_path / "j").close()


def test_a_forked_child_neither_appends_nor_keeps_the_lock(tmp_path: Path) -> None:
    code = """
import os, sys
from components.errors import JournalError
from components.journal import Journal
journal = Journal.open(sys.argv[1])
gate, hold = os.pipe()
started, start = os.pipe()
if os.fork() == 0:
    os.close(hold)
    os.close(start)
    os.read(gate, 1)  # lives on until the parent has driven the journal anew
    try:
        journal.append("planned")
    except JournalError as error:
        print(error)
    sys.stdout.flush()
    os._exit(0)
os.close(start)
os.read(started, 1)
journal.close()
Journal.open(sys.argv[1]).append("planned")
os.close(hold)
os.wait()
"""
    child = run_child(code, tmp_path / "j")
    assert child.returncode == 0, child.stderr
    assert "this process does not drive the journal" in child.stdout
    assert verify(tmp_path / "j").entries == 1


def test_append_refuses_after_close_and_without_drive(tmp_path: Path) -> None:
    three_lines(tmp_path / "j")
    closed = Journal.open(tmp_path / "j")
    closed.close()
    for journal in (closed, Journal.open(tmp_path / "j", drive=False)):
        with pytest.raises(JournalError, match="does not drive the journal"):
            journal.append("planned")


def test_append_notices_a_foreign_write_a_deleted_and_a_replaced_file(tmp_path: Path) -> None:
    path = tmp_path / "j"
    content = b"".join(three_lines(path))
    with Journal.open(path) as journal:
        path.write_bytes(content + b"x")
        with pytest.raises(JournalError, match="another program wrote to it"):
            journal.append("planned")
        path.unlink()
        with pytest.raises(StorageError, match=r"cannot find the journal .*moved or deleted"):
            journal.append("planned")
        path.write_bytes(content)
        with pytest.raises(JournalError, match="the file was replaced"):
            journal.append("planned")


# The disk


FILL = """
import resource, sys
from components.errors import StorageError
from components.journal import Journal, verify
journal = Journal.open(sys.argv[1])
limit = len(journal.append("planned").hash) * 0 + 1000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    while True:
        journal.append("planned", text="x" * 50)
except StorageError as error:
    print(error)
print(verify(sys.argv[1]).torn_bytes, len(journal.entries))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(journal.append("resumed").seq, verify(sys.argv[1]).entries)
"""


def test_a_file_that_cannot_grow_keeps_whole_lines_and_goes_on_later(tmp_path: Path) -> None:
    # A file-size limit makes write() stop in mid-line, as a full disk does.
    child = run_child(FILL, tmp_path / "j")
    assert child.returncode == 0, child.stderr
    message, after, later = child.stdout.splitlines()
    assert f"cannot write the journal {tmp_path / 'j'}: File too large" in message
    torn, entries = map(int, after.split())
    assert (torn, entries > 1) == (0, True)
    assert later == f"{entries + 1} {entries + 1}"


FULL = """
import subprocess, sys
from pathlib import Path
from components.errors import StorageError
from components.journal import Journal, verify
journal = Journal.open(Path(sys.argv[1], "j"))
try:
    while True:
        journal.append("planned", text="x" * 3000)
except StorageError as error:
    print(error)
print(verify(journal.path).torn_bytes)
"""


def test_a_full_disk_is_one_clear_message(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=64k none "{tmp_path}" && exec "$0" -c "$1" "{tmp_path}"'
    try:
        child = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, sys.executable, FULL],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("unshare is not installed: no small disk of our own to fill")
    if "unshare" in child.stderr or "mount" in child.stderr:
        pytest.skip(f"this system lets no user mount a small disk: {child.stderr.strip()}")
    assert child.returncode == 0, child.stderr
    message, torn = child.stdout.splitlines()
    assert message.endswith("j: No space left on device; free some space on that disk and run the same command again")
    assert torn == "0"


DENIED = """
import os, sys
from components.errors import StorageError
from components.journal import Journal
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    Journal.open(sys.argv[1])
except StorageError as error:
    print(error)
"""


def test_a_folder_without_write_permission_is_one_clear_message(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    (tmp_path / "closed").mkdir(mode=0o555)
    child = run_child(DENIED, tmp_path / "closed" / "j")
    assert child.returncode == 0, child.stderr
    assert child.stdout == (
        f"cannot open the journal {tmp_path}/closed/j: Permission denied; "
        "give this user the right to it, or choose another folder with WARDROUND_HOME\n"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "cannot open the journal .*: Is a directory"),
        ("file/j", "cannot open the journal .*: (Not a directory|File exists)"),
        ("pipe", "cannot open the journal .*: Invalid argument"),
    ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match=message):
        Journal.open(tmp_path / name)
    with pytest.raises(StorageError, match="cannot read the journal"):
        read(tmp_path / name)


def test_reading_what_does_not_exist_makes_nothing(tmp_path: Path) -> None:
    for act in (read, verify, lambda path: Journal.open(path, drive=False)):
        with pytest.raises(StorageError, match=r"cannot read the journal .*: No such file"):
            act(tmp_path / "none" / "j")
    assert list(tmp_path.iterdir()) == []


def test_every_letter_of_an_event_name_is_allowed(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j") as journal:
        assert journal.append(string.ascii_lowercase + "_" + string.digits).seq == 1
