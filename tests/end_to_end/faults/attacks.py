"""The attacks that were tried: what was done, where it is stopped, and the test that does it.

::

    python -m tests.end_to_end.faults.attacks      prints the table that is in docs/reliability.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.faults import hostile
from tests.end_to_end.faults.hostile import Craft

TESTS = Path(__file__).resolve().parents[2]
GATEWAY, COORDINATOR, HOSPITAL = "gateway", "coordinator", "hospital"
ROW = "end_to_end/faults/test_attacks.py::test_what_a_hospital_may_not_bring_is_refused_named_and_used_nowhere"


@dataclass(frozen=True)
class Update:
    """Something that an enrolled hospital delivers, sealed and signed by itself.

    Attributes:
        name: What it is.
        craft: Makes it.
        refused: What the reason in the journal matches.
    """

    name: str
    craft: Craft
    refused: str


@dataclass(frozen=True)
class Attack:
    """A row of the table.

    Attributes:
        name: What was tried.
        stopped_by: Who stops it.
        test: The test that tries it, below ``tests``.
    """

    name: str
    stopped_by: str
    test: str


UPDATES = [
    Update("a value that is not a number", hostile.not_a_number, r"NaN or infinite"),
    Update("a tensor of another shape", hostile.another_shape, r"has shape \(7,\), expected"),
    Update("tensors of another dtype", hostile.another_dtype, r"is torch\.float64, expected"),
    Update("one tensor more", hostile.one_more, r"has unknown 1 of \d+ entries: 'backdoor'"),
    Update("one tensor less", hostile.one_less, r"lacks 1 of \d+ entries"),
    Update("a header that declares a terabyte", hostile.a_terabyte, r"bytes"),
    Update("a header without end", hostile.a_header_without_end, r"header"),
    Update("a pickle", hostile.a_pickle, r"header"),
    Update("a claim of 10^9 samples", hostile.a_thousand_million_samples, r"states 1e\+09 samples, the site can have"),
    Update("an update sealed to another key", hostile.sealed_to_somebody_else, r"was sealed to another key"),
    Update("an update sealed for another round", hostile.sealed_for_another_round, r"for another context"),
    Update("an update that is not the one stated", hostile.another_digest, r"hash"),
    Update("an answer to another order", hostile.another_nonce, r"nonce"),
    Update("an answer of 300 lists in each other", hostile.a_deep_answer, r"nested|recursion|not valid|deep"),
]


def _of(folder: str, stopped_by: str, *rows: tuple[str, str]) -> list[Attack]:
    return [Attack(name, stopped_by, f"{folder}::{test}") for name, test in rows]


ATTACKS = [
    *(Attack(f"{update.name}, sealed and signed by an enrolled hospital", COORDINATOR, ROW) for update in UPDATES),
    *_of(
        "end_to_end/faults/test_attacks.py", COORDINATOR,
        ("an evaluation of 10^9 items, all right", "test_an_evaluation_of_a_thousand_million_items_is_refused"),
    ),
    *_of(
        "end_to_end/faults/test_attacks.py", GATEWAY,
        ("an envelope of another key, for another round or site, or changed after it was signed; "
         "somebody else's slot; a payload that is too large", "test_what_the_gateway_refuses_changes_nothing"),
        ("the same delivery again, and another one, into a slot that was taken",
         "test_what_was_delivered_cannot_be_delivered_again_or_changed"),
    ),
    *_of(
        "components/gateway/test_traversal.py", GATEWAY,
        ("names with `..`, absolute, with a zero byte, encoded once and twice, of look-alike letters: 22 kinds in each "
         "place of each route that takes a name", "test_a_name_that_leads_elsewhere_leads_nowhere"),
    ),
    *_of(
        "components/gateway/test_prefect_proxy.py", GATEWAY,
        ("a path that another program might shorten",
         "test_a_path_that_another_program_might_shorten_is_refused"),
        ("a body of more than one reading", "test_a_body_of_more_than_one_reading_is_refused"),
    ),
    *_of(
        "components/gateway/test_isolation.py", GATEWAY,
        ("another hospital's objects, on every live route of Prefect",
         "test_no_live_route_of_prefect_gives_north_anything_of_south_s"),
        ("another hospital's objects, on every route of the gateway",
         "test_no_route_of_the_gateway_gives_north_anything_of_south_s"),
        ("no credential; one that expired, was revoked, of nobody, of another authority; on every route",
         "test_who_is_nobody_gets_one_answer_on_every_route"),
    ),
    *_of(
        "components/gateway/test_identity.py", GATEWAY,
        ("a signed request sent again (its nonce)", "test_a_signed_request_is_good_once"),
        ("a signature moved to another path, method or body", "test_a_signature_is_for_one_path_method_and_body"),
        ("a signature for somebody else on one's own connection",
         "test_a_site_cannot_sign_for_another_on_its_connection"),
    ),
    *_of(
        "components/gateway/test_parcels.py", GATEWAY,
        ("a second envelope for a sealed slot", "test_a_slot_is_sealed_once"),
        ("a link in the place of a payload", "test_a_link_in_the_place_of_a_payload_is_not_followed"),
        ("a slot that nobody opened", "test_only_open_slots_take_anything"),
    ),
    *_of(
        "components/gateway/test_limits.py", GATEWAY,
        ("slow headers, first and later ones", "test_slow_headers_are_hung_up_on"),
        ("as many slow connections as one address may have",
         "test_slow_connections_of_one_address_leave_room_for_the_others"),
        ("a slow body", "test_a_slow_body_is_hung_up_on"),
        ("a body of 1 TB, by its stated length", "test_a_body_is_refused_by_its_stated_length_before_it_is_read"),
        ("headers without end", "test_endless_headers_are_refused"),
        ("two lengths, a transfer encoding, a header twice: readings that differ", "test_strange_requests_are_refused"),
    ),
    *_of(
        "components/exchange/test_codec.py", COORDINATOR,
        ("a sparse file of a terabyte", "test_a_sparse_terabyte_is_refused_at_once"),
        ("any one bit of a file of weights changed", "test_any_bit_that_flips_is_found"),
    ),
    *_of(
        "components/exchange/test_sealing.py", COORDINATOR,
        ("chunks of a sealed update in another order", "test_chunks_in_another_order_are_refused"),
        ("chunks of another sealed update", "test_chunks_of_another_file_are_refused"),
    ),
    *_of(
        "components/exchange/test_keys.py", COORDINATOR,
        ("public keys to which one signature fits many texts",
         "test_all_eight_points_of_small_order_are_refused_in_every_spelling"),
    ),
    *_of(
        "flows/test_collecting.py", COORDINATOR,
        ("an update that changes more than the study allows",
         "test_an_update_that_changed_too_much_is_refused_on_arrival_too"),
    ),
    *_of(
        "components/exchange/test_signed.py", HOSPITAL,
        ("an old plan shown again", "test_an_older_plan_is_refused"),
        ("a plan that another signed", "test_a_plan_that_another_signed_is_refused"),
        ("the last plan with another content", "test_the_last_plan_with_another_content_is_refused"),
    ),
    *_of(
        "flows/test_hostile_runs.py", HOSPITAL,
        ("a run that carries commands, variables, bundles, pull steps or anything but a signed request, by whoever has "
         "Prefect's server", "test_a_hospital_refuses_and_records_every_way"),
    ),
    *_of(
        "end_to_end/test_no_unpickling.py", "nobody unpickles",
        ("a pickle in the place of anything, in a whole training", "test_a_whole_training_unpickles_nothing"),
    ),
]  # fmt: skip


def table() -> str:
    """Return the table, in Markdown."""
    lines = ["| tried | stopped by | test, below `tests/` |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {row.name} | {row.stopped_by} | `{row.test}` |" for row in ATTACKS)])


if __name__ == "__main__":
    print(table())
