"""Words of texts in; how often groups of people are named, the words near them, and listed rude words out.

The lists are small, English and made for this file. They count words, not meanings: a text may name a group
to defend it, quote a slur to object to it, or use a listed word for something else. Removing documents by
such a list took out text from and about minorities more than other text (Dodge et al. 2021, arXiv
2104.08758): the figures describe a corpus and are no reason to remove a document.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stepladder.data.card.sketches import (
    Words,
    add_tables,
    bounded,
    count_table,
    draw,
    estimate,
    join_draws,
    key_of,
)
from stepladder.data.labels import mixed

# Left out because most of their uses mean something else: man, black, white, straight, old, disabled
# (switched off), child and parent (of a process or node), blind (a test).
GROUPS: dict[str, dict[str, str]] = {
    "gender": {
        "women": "she her hers herself woman women girl girls female females mother mothers daughter "
        "daughters wife wives sister sisters lady ladies",
        "men": "he him his himself men boy boys male males father fathers son sons husband husbands brother "
        "brothers gentleman gentlemen",
        "transgender or non-binary": "transgender transsexual nonbinary genderqueer intersex",
    },
    "religion": {
        "Christian": "christian christians christianity catholic catholics protestant protestants church "
        "churches jesus",
        "Muslim": "muslim muslims islam islamic mosque mosques quran imam",
        "Jewish": "jew jews jewish judaism synagogue synagogues rabbi torah",
        "Hindu or Sikh": "hindu hindus hinduism sikh sikhs sikhism",
        "Buddhist": "buddhist buddhists buddhism",
        "no religion": "atheist atheists atheism agnostic agnostics secular",
    },
    "origin": {
        "African": "african africans africa nigerian nigerians kenyan kenyans ethiopian ethiopians",
        "Asian": "asian asians asia chinese japanese korean koreans indian indians pakistani vietnamese",
        "European": "european europeans europe british german germans french italian italians polish",
        "Latin American": "latino latinos latina latinas hispanic hispanics mexican mexicans brazilian",
        "Arab or Middle Eastern": "arab arabs arabic iranian iranians turkish syrian syrians kurdish",
        "Indigenous": "indigenous aboriginal aborigines maori inuit",
        "migrants": "immigrant immigrants migrant migrants refugee refugees foreigner foreigners",
    },
    "age": {
        "young": "teenager teenagers teen teens youth youths kid kids toddler toddlers infant infants",
        "old": "elderly pensioner pensioners grandmother grandfather grandparents retirees",
    },
    "disability": {
        "disability": "disability disabilities handicapped wheelchair deaf deafness blindness autism "
        "autistic dyslexia dyslexic paralyzed epilepsy epileptic",
    },
    "orientation": {
        "gay, lesbian or bisexual": "gay gays lesbian lesbians bisexual bisexuals homosexual homosexuals "
        "homosexuality queer lgbt lgbtq",
        "heterosexual": "heterosexual heterosexuals heterosexuality",
    },
}
# Words of grammar, which stand near everything.
_GRAMMAR = (
    "the of and to in is that it was for on are as with be at by from or an this have had not but were "
    "which their they all one there been if would who what so no when can more out up into than them some "
    "could its then has do will about other these also only may such any our your you we my me us am did "
    "does how where why just like over after before most very being those own same too because while both "
    "each between through under again here nor off down during until against further once should now must "
    "shall might upon she her hers herself he him his himself themselves itself yourself"
)
_HASHED_WITH = np.uint64(0x5A17ED0F70C51C17)
# Salted keys of words, so that none stands here in clear: this hides them from readers and searches, it does
# not keep them secret. Words that are also names, animals, places or words of pride are left out.
_PROFANITIES = (
    "09f8609fae0f1290 0cca5e8392f99cd0 299500f9ac1ab092 2b5f8e6db95d4a4a 2debc80efb6cb1bb 3261a84488b2872d "
    "376e6bab77fc16f5 3cc5b5af7dff65d6 405742c2c08258f8 4454821336563b78 5b81a01c551917b6 6443e8043b86466d "
    "73ff6bcf7db66c20 742fb742641e7bbf 7d0808ed77f6981f 85b8cba84505e2e4 88f83f8d03ec4147 8c0b1484397d3e52 "
    "8f7fc65e543cb84d 9feebb68470e8a80 af9995d771aa4081 b4398a7352199245 b470a37d0d2afbdc c7b5a46e73068ffe "
    "cc6303a8a1fc4920 e4394d8ef0b02ea5 e837868714010327 eb6acfeb72f1556f f0acfd55130ab41d f11eb2f79902a480 "
    "fe39bc5920bb47a2"
)
_SLURS = (
    "0242022473da3b2d 0d86c3faaa2b6b08 10143d7dfa97b124 101fe8b458628fd6 23f8ddee7da929e4 2c488fd4d7f06e31 "
    "36712ef095c404ca 3a3a00375f8bda57 3da695f069c5ee8d 405ecbc2b6e0d41f 497340589c9334df 4e2d1b5418d94341 "
    "5ba73ffe27dbe9bc 5ca21bfea22192f2 6ae62da57cb5008e 7f9335f44a520702 95b09f796773d3e5 98ac8d8f4016846d "
    "9c49f9fc5cfa5ec0 b7bcbc08306c67f3 c0bb74b119ed3388 c3d1859a40915fca c5ad6ab12628312d cc1de0a0e9f1875b "
    "ccb50af1a16ccb4a ce7a04785a72aead d4dbf5cc43327fd6 d62707ed9333c155 f3d9591a268d3f52"
)
NEAR_WORDS, NEAR_DRAWN, NEAR_BITS = 5, 256, 14
# Near a group in fewer documents than this says nothing.
SMALLEST_COUNT = 5
_SHORTEST_TERM = 3
_COUNTS = ("mentions", "documents", "near_rude", "terms")
_RUDE_DOMAINS = 64
_FILTER_BITS = 16


def group_names() -> list[str]:
    """All groups as `kind: group`."""
    return [f"{kind}: {group}" for kind, groups in GROUPS.items() for group in groups]


def rude_words(words: Words, domains: Sequence[str]) -> dict[str, Any]:
    """Counts by domain; `domains` has a name a document of the slice."""
    found = {}
    in_domain = np.asarray(domains, dtype=object)
    for name in sorted(set(domains)):
        inside = in_domain == name
        entry = {"documents": int(inside.sum()), "words": int(inside[words.document].sum())}
        for kind, keys in _rude_keys().items():
            at = words.document[_members(mixed(words.keys ^ _HASHED_WITH), keys)]
            at = at[inside[at]]
            entry |= {kind: len(at), f"documents_with_{kind}": len(np.unique(at))}
        found[name] = entry
    return found


def mentions(words: Words, documents: np.ndarray) -> dict[str, Any]:
    """Mentions by group, documents with one, mentions beside a rude word, and the words beside.

    Beside: within five words. Words beside a mention count once a document.

    `documents` are the keys of the slice's documents.
    """
    keys, group = _group_keys()
    at = np.flatnonzero(_members(words.keys, keys))
    which = group[np.searchsorted(keys, words.keys[at])]
    near = at[:, None] + np.array([n for n in range(-NEAR_WORDS, NEAR_WORDS + 1) if n])
    valid = (near >= 0) & (near < len(words.keys))
    near = np.where(valid, near, 0)
    valid &= words.document[near] == words.document[at][:, None]
    rude = mixed(words.keys[near] ^ _HASHED_WITH)
    is_rude = (_members(rude.ravel(), _all_rude()).reshape(near.shape) & valid).any(axis=1)
    near, whose = near[valid], np.broadcast_to(which[:, None], valid.shape)[valid]
    is_term = _is_term(words, near)
    near, whose = near[is_term], whose[is_term]
    joint = _joint(words.keys[near], whose)
    # Once a document: one list of names would otherwise outweigh all else.
    _, first = np.unique(mixed(joint) ^ documents[words.document[near]], return_index=True)
    near, whose, joint = near[first], whose[first], joint[first]
    out: dict[str, Any] = {"groups": {}, "table": count_table(joint, NEAR_BITS)}
    for number, name in enumerate(group_names()):
        own = which == number
        if own.any():
            rows = near[whose == number]
            out["groups"][name] = {
                "mentions": int(own.sum()),
                "documents": len(np.unique(words.document[at[own]])),
                "near_rude": int(is_rude[own].sum()),
                "terms": len(rows),
                "drawn": draw(words, rows, documents, NEAR_DRAWN),
            }
    return out


def add_mentions(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mentions of all parts together."""
    groups: dict[str, Any] = {}
    for name in group_names():
        own = [part["groups"][name] for part in parts if name in part["groups"]]
        if own:
            groups[name] = {key: sum(e[key] for e in own) for key in _COUNTS}
            groups[name]["drawn"] = join_draws([entry["drawn"] for entry in own], NEAR_DRAWN)
    return {"groups": groups, "table": add_tables([part["table"] for part in parts])}


def add_rude(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rude words of all parts together."""
    total: dict[str, Any] = {}
    for part in parts:
        for name, entry in part.items():
            known = total.setdefault(name, dict.fromkeys(entry, 0))
            for key, value in entry.items():
                known[key] += value
    return bounded(total, _RUDE_DOMAINS)


def near_terms(found: Mapping[str, Any], words: Mapping[str, Any], limit: int = 8) -> dict[str, Any]:
    """For each group its figures and the words that stand near it more often than elsewhere.

    `words` holds the count and the table of all words. A term is listed from five documents on, ordered by
    documents times the logarithm of `times`, its share near the group over its share of all words.
    """
    out = {}
    for number, name in enumerate(group_names()):
        if name not in found["groups"]:
            continue
        entry = found["groups"][name]
        terms = sorted({word for _, word in entry["drawn"]})
        keys = np.array([key_of(term) for term in terms], dtype=np.uint64)
        near = estimate(found["table"], _joint(keys, np.full(len(keys), number)))
        base = np.maximum(estimate(words["table"], keys), 1)
        times = (near / max(entry["terms"], 1)) / (base / max(words["count"], 1))
        score = np.where(near >= SMALLEST_COUNT, near * np.log2(np.maximum(times, 1e-9)), 0)
        listed = [
            {"term": terms[row], "documents": int(near[row]), "times": round(float(times[row]), 1)}
            for row in np.lexsort((np.arange(len(terms)), -score))[:limit]
            if score[row] > 0
        ]
        counts = {key: entry[key] for key in _COUNTS if key != "terms"}
        out[name] = {**counts, "near": listed}
    return out


def _is_term(words: Words, rows: np.ndarray) -> np.ndarray:
    """No word of grammar or of the lists, no number, three letters or more."""
    own = words.keys[rows]
    digit = words.buffer[words.start[rows]]
    plain = (words.length[rows] >= _SHORTEST_TERM) & ~((digit >= ord("0")) & (digit <= ord("9")))
    return plain & ~_members(own, _no_terms())


def _joint(keys: np.ndarray, group: np.ndarray) -> np.ndarray:
    return mixed(keys + (group.astype(np.uint64) + np.uint64(1)) * np.uint64(0xD1342543DE82EF95))


def _members(keys: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Boolean: the key is in the sorted list. A table of 16 bits spares most keys the search."""
    table = _filter(listed.tobytes())
    maybe = table[(keys >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)]
    some = np.flatnonzero(maybe)
    place = np.minimum(np.searchsorted(listed, keys[some]), len(listed) - 1)
    maybe[some] = listed[place] == keys[some]
    return maybe


@functools.lru_cache(maxsize=8)
def _filter(raw: bytes) -> np.ndarray:
    table = np.zeros(1 << _FILTER_BITS, dtype=bool)
    table[(np.frombuffer(raw, dtype=np.uint64) >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)] = True
    return table


@functools.cache
def _group_keys() -> tuple[np.ndarray, np.ndarray]:
    """(sorted keys of all listed words, the number of the group of each)."""
    lists = [words for groups in GROUPS.values() for words in groups.values()]
    pairs = sorted((key_of(word), number) for number, words in enumerate(lists) for word in words.split())
    return np.array([key for key, _ in pairs], dtype=np.uint64), np.array([number for _, number in pairs])


@functools.cache
def _no_terms() -> np.ndarray:
    grammar = np.array([key_of(word) for word in _GRAMMAR.split()], dtype=np.uint64)
    return np.union1d(grammar, _group_keys()[0])


@functools.cache
def _all_rude() -> np.ndarray:
    return np.unique(np.concatenate(list(_rude_keys().values())))


@functools.cache
def _rude_keys() -> dict[str, np.ndarray]:
    lists = {"profanities": _PROFANITIES, "slurs": _SLURS}
    return {
        kind: np.array(sorted(int(h, 16) for h in text.split()), dtype=np.uint64)
        for kind, text in lists.items()
    }
