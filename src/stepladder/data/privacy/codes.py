"""A line of text in; where it holds card numbers, IBANs and secrets out.

Each function yields (start, end) in the line. All have a form that can be checked: the check digits of ISO
7812 and ISO 13616, the published prefix and length of a token, the header of a JSON Web Token. Numbers that
are published for tests, and tokens that do not look drawn at random, are passed over.
"""

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Iterator

from stepladder.data.privacy.contacts import RESERVED_DOMAIN, Span, is_public

# Not beside further groups of four: those are tables of code points.
_CARD = re.compile(
    r"(?<![\w.+-])(?<![0-9A-F]{4} )(?<!\s[0-9a-f]{4} )(?:[0-9]{13,19}"
    r"|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?|3[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5})"
    r"(?![\w+]| [0-9A-Fa-f]{4}\b|[.-][0-9])"
)
# ISO/IEC 7812 ranges as the schemes publish them, with the lengths they issue.
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12}(?:\d{3})?|35(?:2[89]|[3-8]\d)\d{12}(?:\d{3})?"
    r"|3(?:0[0-5]|[689]\d)\d{11}|62\d{14}(?:\d{3})?"
)
_CARD_CONTEXT = re.compile(
    r"(?i)(?<![a-z])(?:cards?|credit|debit|visa|master ?card|amex|american express|discover|payment|cvv|cvc"
    r"|pan|cc)(?![a-z])|card_?num"
)
# Numbers that payment services publish for tests, and numbers of the same make.
_TEST_CARDS = """
4111111111111111 4012888888881881 4242424242424242 4000056655665556 5105105105105100 5200828282828210
2223003122003222 378282246310005 371449635398431 378734493671000 6011000990139424 30569309025904
3566002020360505 4917610000000000 4539578763621486 4532015112830366 5425233430109903
"""
_DUMMY_CARD = re.compile(
    # the last are neighbouring code points: 5414 5415 5416 5417
    "|".join(_TEST_CARDS.split()) + r"|12345678|0{8}|(\d)\1{5}|(\d{2})\2{4}|(\d{4})\3{2}|(\d\d)..\4..\4.."
)


def cards(line: str) -> Iterator[Span]:
    for match in _CARD.finditer(line):
        digits = re.sub(r"[ -]", "", match[0])
        is_grouped = len(digits) != len(match[0])
        if (
            _ISSUERS.fullmatch(digits)
            and passes_luhn(digits)
            and not _DUMMY_CARD.search(digits)
            and (is_grouped or _CARD_CONTEXT.search(line[max(0, match.start() - 100) : match.start()]))
        ):
            yield match.span()


def passes_luhn(digits: str) -> bool:
    """The check digit of ISO/IEC 7812 is right."""
    total = sum(map(int, digits[-1::-2])) + sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return total % 10 == 0


# SWIFT's IBAN registry: number of characters and countries.
_IBAN_COUNTRIES = """
15 NO;16 BE;18 DK FI FK FO GL NL SD;19 MK SI;20 AT BA EE KZ LT LU MN XK;21 CH HR LI LV
22 BG BH CR DE GB GE IE ME RS VA;23 AE GI IL IQ OM SO TL;24 AD CZ ES MD PK RO SA SE SK TN VG;25 LY PT ST
26 IS TR;27 BI DJ FR GR IT MC MR SM;28 AL AZ BY CY DO GT HN HU LB NI PL SV;29 BR EG PS QA UA;30 JO KW MU YE
31 MT SC;32 LC;33 RU
"""
_IBAN_LENGTHS = {
    country: int(length)
    for length, *countries in (group.split() for group in re.split(r"[;\n]", _IBAN_COUNTRIES.strip()))
    for country in countries
}
_IBAN = re.compile(r"(?<![A-Za-z0-9+/=])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}")
# The specimens of the registry and of encyclopaedias.
_IBAN_SPECIMENS = """
GB82WEST12345698765432 GB29NWBK60161331926819 DE89370400440532013000 FR1420041010050500013M02606
GB33BUKB20201555555555 NL91ABNA0417164300 BE68539007547034 CH9300762011623852957 ES9121000418450200051332
IT60X0542811101000000123456 AT611904300234573201 IE29AIBK93115212345678 DE75512108001245126199
"""


def ibans(line: str) -> Iterator[Span]:
    for match in _IBAN.finditer(line):
        length = _IBAN_LENGTHS.get(match[0][:2], 0)
        end, taken = match.start(), 0
        while taken < length and end < match.end():
            taken += line[end] != " "
            end += 1
        written = line[match.start() : end]
        code = written.replace(" ", "")
        is_grouped = written in (code, " ".join(code[at : at + 4] for at in range(0, len(code), 4)))
        is_whole = not line[end : end + 1].isalnum()
        if (
            length
            and len(code) == length
            and is_grouped
            and is_whole
            and code not in _IBAN_SPECIMENS.split()
            and has_iban_check(code)
        ):
            yield match.start(), end


def has_iban_check(code: str) -> bool:
    """The check number of ISO 13616 (ISO 7064, mod 97-10) is right; `code` without blanks."""
    return int("".join(str(int(letter, 36)) for letter in code[4:] + code[:4])) % 97 == 1


_TOKENS = re.compile(
    r"(?<![A-Za-z0-9_])(?:(?:AKIA|ASIA)(?P<aws>[A-Z0-9]{16})|gh[pousr]_(?P<github>[A-Za-z0-9]{36,251})"
    r"|github_pat_(?P<github2>[A-Za-z0-9_]{82})|glpat-(?P<gitlab>[A-Za-z0-9_-]{20,64})"
    r"|(?:xox[abeoprs]|xapp)-(?P<slack>[A-Za-z0-9-]{20,200})"
    r"|hooks\.slack\.com/services/(?P<hook>T\w{8,12}/B\w{8,12}/\w{20,30})"
    r"|AIza(?P<google>[A-Za-z0-9_-]{35})|GOCSPX-(?P<google2>[A-Za-z0-9_-]{28})"
    r"|sk-(?P<openai>[A-Za-z0-9_-]{20,200})"
    r"|[sr]k_(?:live|test)_(?P<stripe>[A-Za-z0-9]{16,128})|whsec_(?P<stripe2>[A-Za-z0-9+/]{24,64})"
    r"|npm_(?P<npm>[A-Za-z0-9]{36})|hf_(?P<hf>[A-Za-z0-9]{34})|pypi-(?P<pypi>A[A-Za-z0-9_-]{60,250})"
    r"|SG\.(?P<sendgrid>[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}))(?![A-Za-z0-9_-])"
)
_JWT = re.compile(
    r"(?<![A-Za-z0-9_.-])(eyJ[A-Za-z0-9_-]{8,2000})\.(eyJ[A-Za-z0-9_-]{8,8000})\.[A-Za-z0-9_-]{16,2000}(?![\w-])"
)
_USERINFO = re.compile(r"(?<=://)([^\s/:@'\"<>]{0,64}):([^\s/@'\"<>]{1,128})@([A-Za-z0-9_.\[\]:-]{1,253})")
_KEY_BLOCK = re.compile(
    r"-----BEGIN ((?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?)-----((?:[^-]|-(?!----)){1,20000})"
    r"-----END \1-----"
)
_DUMMY = re.compile(
    r"(?i)example|x{4}|(.)\1{4}|12345|abcdef|test|dummy|fake|your|sample|redacted|placeholder|foobar|deadbeef"
)
_DUMMY_PASSWORD = re.compile(
    r"(?i)pass|pwd|pw\b|secret|token|user|key|tiger|hunter|admin|root|guest|anon|[*$%{}\[\]()<>]|\.\.\."
)
# The specimens of jwt.io, of RFC 7519 and of readme files.
_DUMMY_CLAIMS = re.compile(r"(?i)john doe|'joe'|payload|\bfoo\b|\bbar\b|test|example")
# Bits a character: 20 characters drawn from 62 have 4.1 on average, names made of words 2.5 to 3.5.
_MIN_BITS = 3.0
_MIN_PASSWORD_BITS = 2.0
# The shortest in use, an Ed25519 key in PKCS#8, has 64 characters of base 64.
_MIN_KEY_CHARS, _MIN_KEY_BITS = 60, 4.0


def secrets(line: str) -> Iterator[Span]:
    spans = [match.span() for match in _TOKENS.finditer(line) if _is_token(match)]
    spans += [match.span() for match in _JWT.finditer(line) if _is_jwt(match)]
    spans += [match.span(2) for match in _USERINFO.finditer(line) if _is_password(match)]
    yield from spans


def _is_token(match: re.Match[str]) -> bool:
    assert match.lastgroup
    body = match[match.lastgroup]
    # sk-ssh-ed25519-cert-v01 and sk-toggleable__label are names of algorithms and of styles
    is_name = match.lastgroup == "openai" and body.islower() and not re.fullmatch("[0-9a-f]{32,64}", body)
    return is_random(body) and not is_name


def is_random(body: str) -> bool:
    """`body` looks drawn at random: letters and digits, 3 bits a character, no word of placeholders."""
    return (
        bits_per_char(body) >= _MIN_BITS
        and not _DUMMY.search(body)
        and any(map(str.isdigit, body))
        and any(map(str.isalpha, body))
    )


def bits_per_char(body: str) -> float:
    """Shannon entropy of the characters of `body`, bits."""
    counts = Counter(body).values()
    return -sum(count / len(body) * math.log2(count / len(body)) for count in counts)


def _is_jwt(match: re.Match[str]) -> bool:
    try:
        header, claims = (
            json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in match.groups()
        )
    except (binascii.Error, ValueError):
        return False
    return isinstance(header, dict) and "alg" in header and not _DUMMY_CLAIMS.search(str(claims))


def _is_password(match: re.Match[str]) -> bool:
    user, password, host = match.groups()
    host = re.sub(r":\d*$", "", host)
    is_address = bool(re.fullmatch(r"[\d.]+", host))
    is_elsewhere = is_public(host) if is_address else "." in host and not RESERVED_DOMAIN.search(host)
    is_word = password.isalpha() and password.islower()
    is_dummy = bool(_DUMMY.search(password) or _DUMMY_PASSWORD.search(password)) or password == user
    is_long = len(password) >= 6 and bits_per_char(password) >= _MIN_PASSWORD_BITS
    # cvs://:pserver:name@ has no user
    return is_elsewhere and is_long and not is_word and not is_dummy and bool(user or ":" not in password)


def key_blocks(text: str) -> Iterator[Span]:
    """Private keys between BEGIN and END in a whole document; a block that is cut short is none."""
    for match in _KEY_BLOCK.finditer(text):
        body = re.sub(r"[^A-Za-z0-9+/=]", "", match[2])
        if len(body) >= _MIN_KEY_CHARS and bits_per_char(body) >= _MIN_KEY_BITS:
            yield match.span()
