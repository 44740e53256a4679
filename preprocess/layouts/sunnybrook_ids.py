"""The names of the patients of the Sunnybrook Cardiac Data: each has a patient id and an original name."""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Sequence

from preprocess.findings import FatalInputError, Finding, Reason
from preprocess.inputs.sources import Listing, read_table

_GROUPS = {
    "SC-HF-I": (1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 40),
    "SC-HF-NI": (3, 4, 7, 11, 12, 13, 14, 15, 31, 33, 34, 36),
    "SC-HYP": (1, 3, 6, 7, 8, 9, 10, 11, 12, 37, 38, 40),
    "SC-N": (2, 3, 5, 6, 7, 9, 10, 11, 40),
}
"""The numbers in the original names of each group of patients, in the order of their patient ids."""

PATIENTS = {
    f"SCD{index:05d}01": original
    for index, original in enumerate(
        (f"{group}-{number}" for group, members in _GROUPS.items() for number in members), start=1
    )
}
"""The original name of each of the 45 patients, by patient id, as ``scd_patientdata.csv`` has them."""

CSV_NAME = "scd_patientdata.csv"
"""The table of patients that one distribution has."""

_CSV_COLUMNS = ("PatientID", "OriginalID")
# Enough for 10,000 patients.
_MAX_CSV_BYTES = 1 << 20

# Ids of the csv that can be used: they become folders' names and ids in tables.
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
_LOOKS_LIKE_AN_ID = re.compile(r"SCD\d{7}|SC(-[A-Z]+)+-\d{1,3}", re.ASCII)


def read_links(source: Listing, tables: Sequence[str]) -> tuple[dict[str, str], list[Finding]]:
    """The original name of each patient, by patient id: the published ones, and others that a table names.

    Args:
        source: the data set.
        tables: paths of tables of patients.

    Returns:
        The names, and a finding for each row or table that cannot be used.
    """
    known = {canonical(patient): canonical(original) for patient, original in PATIENTS.items()}
    names = {*known, *known.values()}
    findings, added = [], collections.defaultdict(list)
    for path in tables:
        try:
            rows = read_table(source, path, _CSV_COLUMNS, _MAX_CSV_BYTES, "a row for each patient")
        except FatalInputError as error:
            findings.append(Finding(Reason.BAD_LINK, "link", path, error.detail))
            continue
        for line, (patient, original) in rows:
            where = path, f"line {line}: "
            ids = canonical(patient), canonical(original)
            if not patient and not original:
                continue
            if not (_ID.fullmatch(patient) and _ID.fullmatch(original)):
                findings.append(_bad_row(where, "an id is missing, or cannot be the name of a folder"))
            elif names.intersection(ids):
                if known.get(ids[0]) != ids[1]:
                    findings.append(_bad_row(where, "contradicts the published names of the patients, which are used"))
            else:
                added[ids].append((where, patient, original))
    links = dict(PATIENTS)
    uses = collections.Counter(name for ids in added for name in set(ids))
    for ids, rows_of_link in added.items():
        if any(uses[name] > 1 for name in ids):
            findings += [
                _bad_row(where, "another row links one of the ids differently") for where, _, _ in rows_of_link
            ]
        else:
            _, patient, original = min(rows_of_link)
            links[patient] = original
    return links, findings


def _bad_row(where: tuple[str, str], problem: str) -> Finding:
    return Finding(Reason.BAD_LINK, "link", where[0], where[1] + problem)


def looks_like_an_id(name: str) -> bool:
    """Whether a name has the form of a patient id or of an original name."""
    return bool(_LOOKS_LIKE_AN_ID.fullmatch(canonical(name)))


def spellings(*names: str) -> frozenset[str]:
    """Names, and the same with one and with two digits at the end."""
    padded = {re.sub(r"-(\d)$", r"-0\1", canonical(name)) for name in names}
    return frozenset([*names, *map(canonical, names), *padded])


# Thousands of files lie in folders of few names.
@functools.lru_cache(maxsize=1024)
def canonical(name: str) -> str:
    """The spelling that two names of one study share: ``sc-hf-i-01`` and ``SC-HF-I-1`` are ``SC-HF-I-1``."""
    group, hyphen, number = name.upper().rpartition("-")
    return f"{group}{hyphen}{number.lstrip('0') or '0'}" if number.isdecimal() else name.upper()
