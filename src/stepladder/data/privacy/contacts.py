"""A line of text in; where it holds e-mail addresses, IP addresses and phone numbers out.

Each function yields (start, end) in the line. What only looks like an address is passed over: reserved and
example domains, remotes of repositories, matrix products; private and documentation ranges, versions,
sections; decimals, dates, ISBNs.
"""

import ipaddress
import re
from collections.abc import Iterator

Span = tuple[int, int]
PHONE_WORD = r"tel|phone|fax|mobile|call|cell|hotline|whatsapp"

# \- is the hyphen of manual pages, E<gt> the bracket of Perl's.
_EMAIL = re.compile(
    r"(?<![\w.+%@$-])[A-Za-z0-9_](?:[A-Za-z0-9_.+%-]|\\-){0,63}"
    r"@(?:[A-Za-z0-9](?:(?:[A-Za-z0-9-]|\\-){0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,12}?(?=E<gt>|(?![\w@-]|\.\w))"
)
# \nname@host.org holds an address after the escape, so does \fIname@host.org; \u00f6n@host.org does not.
_ESCAPE = re.compile(r"(?:[nrt]|f[A-Z0-9])(?=\w)")
# IANA's root zone: the two-letter codes, and the longer names that e-mail addresses of people end in. Without
# the list every matrix product of attributes (`q@self.weight`) would be an address.
_TLDS = """
ac ad ae af ag ai al am ao ar at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cc cd cf
cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gd ge
gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg
kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu
mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru
rw sa sb sc sd se sg sh si sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw
tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw com org net edu gov mil int info biz name pro
aero coop museum jobs mobi tel travel asia cat post app dev tech cloud email online site xyz club shop blog
life world group systems network software science academy university berlin hamburg koeln london paris nyc
africa scot wales ninja rocks space tools foundation
"""
_KNOWN_TLDS = frozenset(_TLDS.split())
# RFC 2606 and RFC 6761, and names of the kind "your domain" that manuals use.
RESERVED_DOMAIN = re.compile(
    r"(?i)(?:^|\.)(?:example\.\w+(?:\.\w+)?|\w*example|test|invalid|local|localhost|localdomain|internal|lan)$"
    r"|^(?:\w+\.)*(?:(?:your|my|some|other)-?(?:domain|company|site|server|host|org)|domain|company|foo|bar|baz"
    r"|spam|test|xyz|acme)\.\w+$"
)
# y@z.com, test\-user@gmail.com, and ciphers of SSH, which RFC 4251 names like addresses
_DUMMY_EMAIL = re.compile(
    r".*@(?:[a-z]\.(?:com|org|net)|openssh\.com|libssh\.org)$"
    r"|(?:(?:test|your)[\w.\\-]*|user(?:name)?|foo|bar|j(?:ohn|ane)\.?doe)@"
)
_REMOTE = re.compile(r":(?:[\w~./-]*[\w~/])")


def emails(line: str) -> Iterator[Span]:
    for match in _EMAIL.finditer(line):
        local, _, domain = match[0].rpartition("@")
        start = match.start()
        before, after = line[max(0, start - 80) : start], line[match.end() : match.end() + 80]
        if before.endswith("\\"):
            escape = _ESCAPE.match(local)
            if not escape:
                continue
            start, local = start + escape.end(), local[escape.end() :]
        tld = domain.rpartition(".")[2]
        is_written = not (local.endswith(".") or ".." in local) and (tld.islower() or tld.isupper())
        is_known = tld.lower() in _KNOWN_TLDS and not RESERVED_DOMAIN.search(domain)
        is_dummy = local == domain.partition(".")[0] or _DUMMY_EMAIL.match(f"{local}@{domain}")
        # git@github.com:owner/name, ssh://user@host/, user:password@host
        is_remote = local == "git" or bool(_REMOTE.match(after)) or bool(re.search(r"://[^\s/]*$", before))
        if is_written and is_known and not is_dummy and not is_remote:
            yield start, match.end()


_IPV4 = re.compile(r"(?<![\w.+-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w+]|\.[\w]|-[\w.])")
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:]|\.\w)")
_VERSION = re.compile(
    r"(?i:(?:\bv|ver|version\w*|release\w*|rev|revision|build|sections?|sec|chapter|clause|§|firmware|driver|since"
    r"|rfc ?\d+,?)[\s.:='\"`(\[\\&]*$)|(?:[=~!<>]=|[<>^~])\s*$|[A-Za-z]/$"
    r"|(?i:(?:updat|upgrad|downgrad|patch|bump)\w*\s(?:\S+\s){0,3}$)"
    # Chrome 91.0.4472.124, upgrade V8 4.7.80.32, but not www.python.org 138.197.63.241 or from 138.197.63.241
    r"|(?:^|[\s\"'(*>])(?!(?:from|to|at|is|was|by|for|and|or|on|of|with|The)\s)[A-Za-z][\w*+-]*\s$"
    # M2.83-2.12 3.51.98.32 in the paths of drawings
    r"|(?:^|[^\d.])(?:\d*\.)?\d+[ ,]$"
)
_NETWORK = re.compile(
    r"(?i)(?<![a-z])(?:ips?|ipv4|inet|hosts?|hostname|addr(?:ess(?:es)?)?|servers?|dns|ping|ssh|port|subnet|network|"
    r"client|remote|gateway|proxy|peer|nameserver|cidr|forwarded)(?![a-z])|://$"
)
# Addresses that everybody uses as an example, and public resolvers.
_DUMMY_ADDRESS = re.compile(
    r"1\.[0-2]\.|(\d+)\.\1\.\1\.\1$|8\.8\.|9\.9\.9\.|4\.3\.2\.1$|5\.6\.7\.8$|12\.34\.56\.78$"
    r"|1\.234\.56\.78$|11\.22\.33\.44$"
    r"|2001:4860:4860::88|2606:4700:4700::1"
)
# Without a word of networks before it 8.2.4.45 is a section and 2.7.0.40 a version: of the texts of
# python:installed no address of another first octet was either.
_SMALL_FIRST_OCTET, _SMALL_OCTET = 10, 30


def ips(line: str) -> Iterator[Span]:
    for match in _IPV4.finditer(line):
        before = line[max(0, match.start() - 40) : match.start()]
        if is_public(match[0]) and not _is_version(match[0], before):
            yield match.span()
    for match in _IPV6.finditer(line):
        # x[2000::2] is a slice
        if is_public(match[0]) and len(match[0].strip(":").split(":")) >= 4:
            yield match.span()


def is_public(address: str) -> bool:
    """`address` is one that a host on the Internet can have, and nobody's usual example."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    is_network = not any(parsed.packed[-1:] if parsed.version == 4 else parsed.packed[8:])
    return parsed.is_global and not (parsed.is_multicast or is_network or _DUMMY_ADDRESS.match(str(parsed)))


def _is_version(dotted: str, before: str) -> bool:
    if _NETWORK.search(before):
        return False
    octets = [int(octet) for octet in dotted.split(".")]
    is_small = octets[0] < _SMALL_FIRST_OCTET or max(octets) < _SMALL_OCTET
    return is_small or bool(_VERSION.search(before))


_NUMBER = r"[0-9]{1,15}(?:(?:[ .-]| ?\(|\)[ .-]?)[0-9]{1,15}){0,7}"
_INTERNATIONAL = re.compile(rf"(?<![\w+)\]])\+(?:\((?=[0-9]))?{_NUMBER}")
_NATIONAL = re.compile(
    rf"(?i)(?<![a-z])(?P<word>tel(?:ephone)?|phone|fax|mobile|call|cell|hotline|whatsapp)s?"
    rf"(?:[ _-]?(?:number|no|nr|num|us|me)\b)?(?:\s+(?:at|on|is))?[\s.:=#\"'`]{{1,8}}(?P<number>\(?{_NUMBER})"
)
_PHONE_CONTEXT = re.compile(
    rf"(?i)(?<![a-z])(?:{PHONE_WORD}|telephone|ph|contact|sms)(?![a-z])[^0-9]{{0,30}}$|tel:$"
)
# ITU-T E.164, country codes in use.
_COUNTRY = re.compile(
    r"1|7|2(?:0|7|[1-6]\d|9[0178])|3(?:[0123469]|5\d|7\d|8[0-7])|4(?:[013-9]|2[013])|5(?:[1-8]|0\d|9\d)"
    r"|6(?:[0-6]|7\d|8\d|9[012])|8(?:[1246]|5[0235-9]|80|86)|9(?:[0-58]|6\d|7\d|9[2-68])"
)
_DATE = re.compile(
    r"(?:19|20)\d\d[ .-]?[01]\d[ .-]?[0-3]\d(?!\d)|[0-3]?\d[.-][01]?\d[.-](?:19|20)?\d\d(?!\d)"
)


def phones(line: str) -> Iterator[Span]:
    spans = [(*match.span(), "+") for match in _INTERNATIONAL.finditer(line)]
    spans += [(*match.span("number"), match["word"].lower()) for match in _NATIONAL.finditer(line)]
    for start, end, word in spans:
        is_whole = not re.match(r"[\w+*/%@]|[.,:-]\w", line[end : end + 2])
        if is_whole and _is_phone(line[start:end], word, line[max(0, start - 50) : start]):
            yield start, end


def _is_phone(number: str, word: str, before: str) -> bool:
    groups = re.findall(r"[0-9]+", number)
    digits = "".join(groups)
    is_isbn = "isbn" in before.lower() or (len(digits) == 13 and digits.startswith(("978", "979")))
    if not 8 <= len(digits) <= 15 or len(set(digits)) < 4 or is_isbn or _is_fictional(digits):
        return False
    separators = set(re.sub(r"[0-9+]", "", number))
    # a decimal, a dotted quad
    if separators == {"."} and (len(groups) == 2 or (len(groups) == 4 and max(map(len, groups)) <= 3)):
        return False
    if word == "+":
        return bool(_COUNTRY.match(digits)) and _is_international(groups, before)
    # call 20261126 and the like
    return not _DATE.match(number) and (len(groups) > 1 or word != "call")


def _is_international(groups: list[str], before: str) -> bool:
    """The digits after a plus sign are grouped like a number, or unbroken where one is expected."""
    digits = "".join(groups)
    if len(groups) == 1:
        is_integer = re.match(r"2147483|4294967", digits) or re.search(r"[0-9A-Za-z)\]]\s?$", before)
        is_quoted = before[-1:] in ('"', "'", "(", "<", ":") and not is_integer
        return bool(_PHONE_CONTEXT.search(before)) or (len(digits) >= 10 and is_quoted)
    if digits[0] == "1":
        return len(digits) == 11
    return len(groups[0]) <= 4 and all(len(group) <= 10 for group in groups)


def _is_fictional(digits: str) -> bool:
    """555-0100 to 555-0199 and 555-1234, with or without area and country code; sequences."""
    return bool(re.search(r"555(?:01\d\d|1212|1234|5555)$|1234567|0000000", digits))
