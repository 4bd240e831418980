"""Findings, false alarms, placeholders and counts of personal data.

Telephone numbers are from the ranges that regulators keep for film and radio (Ofcom: 020 7946 0000 to 0999;
Bundesnetzagentur: 030 23125 000 to 999). Cards, IBANs and secrets are computed: none is in use.
"""

import base64
import json
import random
import string

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder.data.privacy.codes import has_iban_check, passes_luhn
from stepladder.data.privacy.pii import (
    IPV6_PLACEHOLDER,
    KINDS,
    PLACEHOLDERS,
    drop_mask,
    merge_counts,
    pii_counts,
    replace_pii,
)
from stepladder.errors import DataError


def replaced(text: str, *kinds: str) -> str:
    return replace_pii(pl.Series([text]), kinds or KINDS)[0][0]


def found(text: str) -> list[str]:
    counts = replace_pii(pl.Series([text]))[1]
    return [kind for kind in KINDS for _ in range(counts[kind][0])]


def drawn(length: int, letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(random.Random(length).choices(letters, k=length))


def base64_of(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def card(prefix: str) -> str:
    """The first number that begins with `prefix`, has 16 digits and the right check digit."""
    return next(
        number
        for number in (f"{prefix}{last}" for last in range(10 ** (16 - len(prefix))))
        if passes_luhn(number)
    )


def iban(country: str, rest: str) -> str:
    codes = (f"{country}{check:02d}{rest}" for check in range(2, 99))
    return next(code for code in codes if has_iban_check(code))


VISA = card("453287601928374")
IBAN = iban("DE", "500105178736429105")
UPPER = string.ascii_uppercase + string.digits
TOKENS = [
    "AKIA" + drawn(16, UPPER),
    "ghp_" + drawn(36),
    "github_pat_" + drawn(82),
    "glpat-" + drawn(20),
    "xoxb-" + drawn(12, string.digits) + "-" + drawn(24),
    "AIza" + drawn(35),
    "sk-" + drawn(48),
    "sk-proj-" + drawn(64),
    "sk_live_" + drawn(24),
    "npm_" + drawn(36),
    "hf_" + drawn(34),
    "SG." + drawn(22) + "." + drawn(43),
    f"{base64_of({'alg': 'HS256', 'typ': 'JWT'})}.{base64_of({'sub': 'u83', 'exp': 1767225600})}.{drawn(43)}",
]
KEY_BODY = "\n".join(drawn(64 + line) for line in range(4))
KEY_BLOCK = f"-----BEGIN RSA PRIVATE KEY-----\n{KEY_BODY}\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("Write to Ann <ann.lee+list@mit.edu>.", "email", "Write to Ann <{}>."),
        (r"'To: \nann@lists.debian.org'", "email", r"'To: \n{}'"),
        (r"<\fIl10n\-german@lists.debian.org\fR>", "email", r"<\fI{}\fR>"),
        ("E<lt>ann@cpan.orgE<gt>", "email", "E<lt>{}E<gt>"),
        ("listens on http://138.197.63.241:80/", "ip", "listens on http://{}:80/"),
        ("www.python.org 138.197.63.241", "ip", "www.python.org {}"),
        ("the server at 5.44.3.2 is down", "ip", "the server at {} is down"),
        ("Phone: +44 20 7946 0958", "phone", "Phone: {}"),
        ("or +49 (30) 23125-042, daily", "phone", "or {}, daily"),
        ('<a href="tel:+442079460958">', "phone", '<a href="tel:{}">'),
        ("Fax 030 23125 042", "phone", "Fax {}"),
        ("call (020) 7946-0958 now", "phone", "call {} now"),
        (
            f"paid with {VISA[:4]} {VISA[4:8]} {VISA[8:12]} {VISA[12:]}, thanks",
            "card",
            "paid with {}, thanks",
        ),
        (f'card_number = "{VISA}"', "card", 'card_number = "{}"'),
        (f"IBAN: {IBAN}.", "iban", "IBAN: {}."),
        (" ".join(IBAN[at : at + 4] for at in range(0, 22, 4)) + " BIC", "iban", "{} BIC"),
        ("postgres://app:k7Wq-zP2x@db.acme-tools.io/x", "secret", "postgres://app:{}@db.acme-tools.io/x"),
        (f"a\n{KEY_BLOCK}\nb", "secret", "a\n{}\nb"),
        *((f'token = "{token}"', "secret", 'token = "{}"') for token in TOKENS),
    ],
)
def test_finding_is_replaced_by_the_placeholder_of_its_kind(text: str, kind: str, expected: str) -> None:
    assert [kind] == found(text)
    assert expected.format(PLACEHOLDERS[kind]) == replaced(text)


def test_an_ipv6_address_has_a_placeholder_of_its_own() -> None:
    assert f"from [{IPV6_PLACEHOLDER}]:80" == replaced("from [2a00:1450:4001:81c::200e]:80")


@pytest.mark.parametrize(
    "text",
    [
        "git clone git@github.com:owner/name.git",
        "hg clone ssh://ann@hg.mozilla.org/central",
        "scp ann@host.mit.edu:/tmp/x .",
        "ann@example.com, bob@sub.example.org, eve@host.test, joe@printer.local, foo@bar.com",
        "@functools.wraps\n@foo.bar\ndef f(): ...",
        "root@localhost and user@host",
        "y = q@self.weight + A@np.linalg.inv(B) + x@y.mT",
        "icon@2x.png and name@v2.zip",
        r"'pers\u00f6n@dom.in'",
        "npm install left-pad@1.3.0",
        "one@one.org and y@z.com",
        "Message-ID: <002001c144a6$8752e060$56104586@oxy.edu>",
        "Ciphers chacha20-poly1305@openssh.com",
        "contact email@example.com",
    ],
)
def test_no_email_address(text: str) -> None:
    assert [] == found(text)


@pytest.mark.parametrize(
    "text",
    [
        "version 1.2.3.4, v91.0.44.72, python-31.1.20.1, ==41.2.77.18, Chrome/91.0.44.124",
        "Chrome 91.0.44.124 and V8 94.7.80.32; bump foo from 41.2.77.18",
        "see section 14.2.3.4 and § 82.2.4.45",
        "127.0.0.1 10.1.2.3 192.168.1.1 172.16.0.1 169.254.1.1 0.0.0.0 255.255.255.255 224.0.0.1",
        "192.0.2.7 198.51.100.7 203.0.113.7 host 8.8.8.8 host 1.2.3.4",
        "server 138.197.63.256 and host 138.1970.63.1",
        "host 1.3.6.1.4.1.311.60 and oid 138.197.63.241.7",
        "the network 138.197.63.0/24",
        'd="M2.83-2.12 35.51.98.32 2.03"',
        "2001:db8::7 fe80::1 ::1 12:30:45 x[2000::2] std::vector dead::beef aa:bb:cc:dd:ee:ff",
    ],
)
def test_no_ip_address(text: str) -> None:
    assert [] == found(text)


@pytest.mark.parametrize(
    "text",
    [
        "call 2026-11-26 or 26.11.2026, phone : 20261126",
        "Call ISBN 978-3-16-148410-0 and tel 978-3-16-148410-0",
        "0.8113201 +2.30193429j  +63.25138759",
        "x = [+2147483647, +4294967296, +281474976710656]",
        "2026-11-26T10:00:00+01:00 +1000000000 +0100",
        "phone 123e4567-e89b-12d3-a456-426614174000",
        "tel: 20794609586f3a and fax +442079460958abc",
        "31415926 27182818 20794 60958 12345 67890",
        "syscall 20794609",
        "call(20794609) and CALL 20794609",
        "phone: 12345678 or +1 234 567 8901",
        "Phone: +1 202 555 0143, tel 202-555-0100",
        "phone 10.20.30.40",
    ],
)
def test_no_phone_number(text: str) -> None:
    assert [] == found(text)


@pytest.mark.parametrize(
    "text",
    [
        f"card {VISA[:-1]}{(int(VISA[-1]) + 1) % 10}",  # Luhn
        f"card {card('953287601928374')}",  # no issuer
        f"seed = {VISA}",  # an integer
        f"card 0.{VISA}, card x{VISA}, card {VISA}7",  # a part of something longer
        f"0031 2044 {VISA[:4]} {VISA[4:8]} {VISA[8:12]} {VISA[12:]}",  # a table
        "card 4111 1111 1111 1111, 5555555555554444, 0000 0000 0000 0000",
    ],
)
def test_no_card_number(text: str) -> None:
    assert [] == found(text)


@pytest.mark.parametrize(
    "text",
    [
        IBAN[:-1] + str((int(IBAN[-1]) + 1) % 10),  # mod 97
        iban("ZZ", IBAN[4:]),  # no country
        iban("DE", IBAN[4:-1]),  # length
        f"{IBAN}A",
        f"{IBAN[:6]} {IBAN[6:]}",  # grouping
        "DE89 3704 0044 0532 0130 00",  # the specimen
        "CF13B980041275B0 431D6980097A8C00 C1BB60000EC74E00",
    ],
)
def test_no_iban(text: str) -> None:
    assert [] == found(text)


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + "x" * 36,
        "ghp_" + "ab1" * 12,
        "sk-" + "your-api-key-goes-here-0123456789",
        "sk-toggleable__label-arrow-1 sk-ssh-ed25519-cert-v01@openssh.com",
        "hf_" + "abcdefghijklmnopqrstuvwxyz12345678",
        "https://user:password@host.io/ ftp://joe:joe99@host.io/ http://a:b@c.io",
        "https://app:k7Wq-zP2x@example.com/ https://app:k7Wq-zP2x@localhost/ redis://app:${PW_1}@db.io",
        "https://app:<SECRET>@db.io",
        f"{base64_of({'typ': 'JWT'})}.{base64_of({'sub': 'u83'})}.{drawn(43)}",
        f"{base64_of({'alg': 'none'})}.{base64_of({'name': 'John Doe'})}.{drawn(43)}",
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        f"-----BEGIN CERTIFICATE-----\n{KEY_BODY}\n-----END CERTIFICATE-----",
    ],
)
def test_no_secret(text: str) -> None:
    assert [] == found(text)


def test_counts_stand_in_the_rows_of_their_documents() -> None:
    text = pl.Series(
        ["nothing", None, "a@mit.edu\nb@mit.edu and tel +44 20 7946 0958", "", f"{TOKENS[0]}\r\n"]
    )
    new, counts = replace_pii(text)
    assert text.len() == new.len()
    assert [None] == new[1:2].to_list()
    assert "email@example.com\nemail@example.com and tel +1 202 555 0100" == new[2]
    assert "<SECRET>\r\n" == new[4]
    assert [0, 0, 2, 0, 0] == counts["email"].to_list()
    assert dict.fromkeys(KINDS, pl.Int64) == counts.schema
    assert [False, False, False, False, True] == drop_mask(counts).to_list()
    assert {"documents": 1, "findings": 2} == pii_counts(counts)["email"]


def test_only_the_asked_kinds_are_replaced() -> None:
    text = "ann@mit.edu at http://138.197.63.241/"
    assert "ann@mit.edu at http://192.0.2.1/" == replaced(text, "ip")
    assert ["ip"] == replace_pii(pl.Series([text]), ["ip"])[1].columns
    assert [False] == drop_mask(replace_pii(pl.Series([text]), ["ip"])[1]).to_list()
    assert text == replace_pii(pl.Series([text]), [])[0][0]


def test_an_empty_column() -> None:
    new, counts = replace_pii(pl.Series([], dtype=pl.String))
    assert ([], 0) == (new.to_list(), len(counts))
    assert [] == drop_mask(counts).to_list()


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(DataError, match=r'"mail" is not a kind of personal data .did you mean "email"'):
        replace_pii(pl.Series(["x"]), ["mail"])


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    text = pl.Series(["a@mit.edu", "b@mit.edu c@mit.edu", f"{IBAN} a@mit.edu"])
    whole = pii_counts(replace_pii(text)[1])
    parts = [pii_counts(replace_pii(text[at : at + 1])[1]) for at in range(3)]
    assert whole == merge_counts(json.loads(json.dumps(parts)))
    assert {} == merge_counts([])


PIECES = [
    *(
        "ann@mit.edu",
        "138.197.63.241",
        "2a00:1450:4001:81c::200e",
        "+44 20 7946 0958",
        VISA,
        IBAN,
        "tel ",
        "card ",
    ),
    *(TOKENS[0], TOKENS[-1], "https://app:k7Wq-zP2x@db.io", KEY_BLOCK, "-----BEGIN RSA PRIVATE KEY-----\n"),
    *("\n", " ", ".", ":", "@", "-", "+", "\\", "1", "a", "://", "v", "<", "/", *PLACEHOLDERS.values()),
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), min_size=1, max_size=4))
def test_replacing_twice_changes_nothing(documents: list[str]) -> None:
    once, counts = replace_pii(pl.Series(documents))
    again = replace_pii(pl.Series(documents))
    assert once.to_list() == again[0].to_list()
    assert counts.equals(again[1])
    twice, none = replace_pii(once)
    assert once.to_list() == twice.to_list()
    assert 0 == none.sum_horizontal().sum()
