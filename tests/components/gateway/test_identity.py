"""Five refusals and what surrounds them: who asks is known by the credential, in both ways it can be shown."""

import base64
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from components.exchange.keys import TlsKey
from components.gateway.refusals import WORDS
from components.gateway.signed_requests import CERTIFICATE, WINDOW_S, sign_request
from components.gateway.transport import Route, client_context
from components.governance.certificates import Authority, issue_credential, make_authority, make_csr
from components.governance.identity_files import SiteFolder
from tests.components.gateway.gates import Gate

pytestmark = pytest.mark.timeout(60)
TARGET = "/v1/federation"
UNKNOWN = {"error": WORDS[401]}


def der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def foreign(gate: Gate, folder: Path, authority: Authority, site: str, at: datetime | None = None) -> SiteFolder:
    """Make a site's folder with a credential by some authority, for some time."""
    made = SiteFolder(folder)
    keys = made.make_keys()
    credential = issue_credential(authority, make_csr(keys.tls, site), site=site, at=at)
    made.write_credential(credential.pem)
    return made


def by_tls(gate: Gate, folder: SiteFolder) -> int:
    """Return what a site's certificate gets."""
    context = client_context(gate.secrets.authority.pem.decode(), Route(), folder)
    with httpx.Client(base_url=gate.address, verify=context, timeout=60) as client:
        return client.get(TARGET).status_code


def by_signature(gate: Gate, folder: SiteFolder, *, now: float | None = None) -> httpx.Response:
    headers = signature(gate, folder, now=now)
    with gate.http(None) as client:
        return client.get(TARGET, headers=headers)


def signature(gate: Gate, folder: SiteFolder, *, now: float | None = None, method: str = "GET", target: str = TARGET,
              body: bytes = b"") -> dict[str, str]:  # fmt: skip
    pem = folder.credential.read_bytes()
    return sign_request(
        method, target, body, key=TlsKey.load(folder.tls_key), certificate=der(pem), now=now or gate.database.now()
    )


def test_a_member_is_known_in_both_ways(gate: Gate, north: SiteFolder) -> None:
    assert by_tls(gate, north) == 200
    assert by_signature(gate, north).status_code == 200


def test_no_certificate_is_one_answer_on_every_path(gate: Gate, north: SiteFolder) -> None:
    slot = gate.open_slot("north", round_number=90)
    paths = [
        TARGET,
        "/v1/nothing",
        f"/v1/objects/{'0' * 64}",
        f"/v1/slots/{slot.folder}/upload",
        "/v1/prefect/api/x",
        "/",
    ]
    with gate.http(None) as client:
        answers = [client.get(path) for path in paths]
    assert {answer.status_code for answer in answers} == {401}
    assert [answer.json() for answer in answers] == [UNKNOWN] * len(paths)


def test_another_authority_is_refused(gate: Gate, tmp_path: Path) -> None:
    other = make_authority("ward", tmp_path / "other")
    folder = foreign(gate, tmp_path / "north", other, "north")
    with pytest.raises(httpx.TransportError, match=r"alert|disconnected"):  # TLS itself refuses
        by_tls(gate, folder)
    assert by_signature(gate, folder).json() == UNKNOWN


def test_an_expired_credential_is_refused(gate: Gate, tmp_path: Path, north: SiteFolder) -> None:
    past = datetime.now(UTC) - timedelta(days=30)
    folder = foreign(gate, tmp_path / "north", gate.secrets.authority, "north", at=past)
    assert by_tls(gate, folder) == 401
    assert by_signature(gate, folder).json() == UNKNOWN


def test_a_credential_of_no_member_is_refused(gate: Gate, tmp_path: Path) -> None:
    folder = foreign(gate, tmp_path / "nobody", gate.secrets.authority, "nobody")
    assert by_tls(gate, folder) == 401
    assert by_signature(gate, folder).json() == UNKNOWN


def test_the_gateway_s_own_certificate_opens_no_door(gate: Gate, tmp_path: Path) -> None:
    secrets = gate.settings.secrets
    context = client_context(gate.secrets.authority.pem.decode(), Route(), None)
    context.load_cert_chain(secrets / "gateway.pem", secrets / "gateway.key")
    with httpx.Client(base_url=gate.address, verify=context, timeout=60) as client, pytest.raises(httpx.TransportError):
        client.get(TARGET)


@pytest.mark.parametrize("end", ["revoke", "leave"])
def test_who_was_shut_out_is_refused_on_an_open_connection_and_comes_back_only_by_a_new_token(
    gate: Gate, end: str
) -> None:
    folder = gate.enrol(f"leaver-{end}")
    with gate.http(folder) as client:
        assert client.get(TARGET).status_code == 200
        getattr(gate.sites, end)(f"leaver-{end}")
        assert client.get(TARGET).json() == UNKNOWN
    assert by_signature(gate, folder).json() == UNKNOWN
    old = folder.credential.read_bytes()
    gate.enrol(f"leaver-{end}")
    assert by_tls(gate, folder) == 200
    folder.write_credential(old)
    assert by_tls(gate, folder) == 401


def test_another_site_s_credential_is_another_site(gate: Gate, north: SiteFolder, south: SiteFolder) -> None:
    """What is asked for B with A's credential does not exist, whether or not B has it."""
    slot = gate.open_slot("south", round_number=91)
    free = slot.model_copy(update={"round": 92})
    with gate.http(north) as client:
        answers = [client.get(f"/v1/slots/{each.folder}/upload") for each in (slot, free)]
        answers.append(client.put(f"/v1/slots/{slot.folder}/upload", params={"offset": "0"}, content=b"x"))
        answers.append(client.post(f"/v1/slots/{slot.folder}/submit", content=b"{}"))
    assert {(answer.status_code, answer.text) for answer in answers} == {(404, answers[0].text)}
    assert not (gate.exchange / "sealed" / slot.folder).exists()


def test_a_signed_request_is_good_once(gate: Gate, north: SiteFolder) -> None:
    headers = signature(gate, north)
    with gate.http(None) as client:
        assert client.get(TARGET, headers=headers).status_code == 200
        assert client.get(TARGET, headers=headers).json() == UNKNOWN


def test_a_signed_request_is_good_for_a_while(gate: Gate, north: SiteFolder) -> None:
    now = gate.database.now()
    assert by_signature(gate, north, now=now - WINDOW_S + 60).status_code == 200
    assert by_signature(gate, north, now=now - WINDOW_S - 60).json() == UNKNOWN
    assert by_signature(gate, north, now=now + WINDOW_S + 60).json() == UNKNOWN


def test_a_signature_is_for_one_path_method_and_body(gate: Gate, north: SiteFolder) -> None:
    body = b'{"version":"1","activity":{}}'
    with gate.http(None) as client:
        moved = signature(gate, north, target="/v1/federation?x=1")
        assert client.get(TARGET, headers=moved).json() == UNKNOWN
        assert client.get(TARGET, headers=signature(gate, north, method="POST")).json() == UNKNOWN
        good = signature(gate, north, method="POST", target="/v1/heartbeat", body=body)
        changed = client.post("/v1/heartbeat", content=body.replace(b"{}", b'{"a":1}'), headers=good)
        assert changed.json() == UNKNOWN
    site = gate.sites.get("north")
    assert site is not None
    assert site.activity != {"a": 1}


def test_a_certificate_without_its_signature_is_nobody(gate: Gate, north: SiteFolder) -> None:
    shown = base64.b64encode(der(north.credential.read_bytes())).decode()
    with gate.http(None) as client:
        assert client.get(TARGET, headers={CERTIFICATE: shown}).json() == UNKNOWN


def test_a_site_cannot_sign_for_another_on_its_connection(gate: Gate, north: SiteFolder, south: SiteFolder) -> None:
    with gate.http(north) as client:
        assert client.get(TARGET, headers=signature(gate, south)).json() == UNKNOWN
        assert client.get(TARGET, headers=signature(gate, north)).status_code == 200
