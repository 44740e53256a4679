"""Studies → splits: ``train``, fractions by study, or studies by name."""

from __future__ import annotations

import contextlib
import difflib
import fractions
import hashlib
import re
from collections.abc import Collection, Mapping

from preprocess.findings import FatalInputError, some

_NAME = re.compile(r"[a-z][a-z0-9_]*")

# Without exponents, of which fractions would compute every digit.
_SHARE = re.compile(r"-?[0-9./]{1,30}")

# Studies that a message names, at most.
_NAMED = 10

HELP = (
    "a split's name, fractions by study as train:0.6,val:0.2,test:0.2, or studies as val=A+B,test=C (the rest: train)"
)


def assign(rule: str, studies: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Divides whole studies among named splits.

    Fractions round to whole studies by largest remainder, and every split gets at least one. Which study goes where
    depends on the digest of its id: not on its place in the alphabet, which in archives often shows the disease.

    Args:
        rule: as ``HELP`` says.
        studies: ids of the studies to divide.

    Returns:
        The sorted study ids of each split, in the rule's order.

    Raises:
        ValueError: the rule is malformed.
        FatalInputError: the rule needs studies that do not exist.
    """
    if "=" in rule:
        return _by_name(_parse(rule, "="), studies)
    if ":" in rule:
        return _by_fraction(_shares(rule), studies)
    return {_checked(rule): tuple(sorted(studies))}


def check(rule: str) -> None:
    """Raises ValueError where a rule is malformed, whatever the studies."""
    with contextlib.suppress(FatalInputError):
        assign(rule, ())


def misspelled(rule: str) -> str | None:
    """A split whose name is probably a misspelled ``train``, which readers expect; None where a split has that name."""
    names = [part.partition("=")[0].partition(":")[0] for part in rule.split(",")]
    if any(name.startswith("train") for name in names):
        return None
    return next(iter(difflib.get_close_matches("train", names, n=1, cutoff=0.75)), None)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"split {name!r}: a name of lower-case letters, digits and _ expected; {HELP}")
    return name


def _parse(rule: str, separator: str) -> dict[str, str]:
    parts = {}
    for part in rule.split(","):
        name, found, value = part.partition(separator)
        if not found or not value:
            raise ValueError(f"split {part!r}: name{separator}value expected; {HELP}")
        if _checked(name) in parts:
            raise ValueError(f"split {name!r} is named twice")
        parts[name] = value
    return parts


def _shares(rule: str) -> dict[str, fractions.Fraction]:
    parts = _parse(rule, ":")
    try:
        if not all(_SHARE.fullmatch(value) for value in parts.values()):
            raise ValueError
        shares = {name: fractions.Fraction(value) for name, value in parts.items()}
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"split {rule}: fractions expected; {HELP}") from None
    rest = fractions.Fraction(1 - sum(shares.values()))
    if any(share <= 0 for share in shares.values()) or rest:
        hint = ""
        if rest > 0 and "train" not in shares and not misspelled(rule):
            hint = f"; to train on the rest, write train:{_written(rest)},{rule}"
        raise ValueError(f"split {rule}: fractions above 0 that add up to 1 expected{hint}")
    return shares


def _written(share: fractions.Fraction) -> str:
    """A fraction as a decimal number where that is exact, as in 0.8."""
    decimal = f"{float(share):g}"
    return decimal if fractions.Fraction(decimal) == share else str(share)


def _by_fraction(shares: Mapping[str, fractions.Fraction], studies: Collection[str]) -> dict[str, tuple[str, ...]]:
    if len(studies) < len(shares):
        raise FatalInputError(
            "--split",
            f"{len(shares)} splits need a study each, and {len(studies)} can be used: {some(sorted(studies), _NAMED)}",
        )
    # One study each first, so that no split is empty; the rest by largest remainder.
    exact = {name: share * len(studies) for name, share in shares.items()}
    counts = {name: max(1, int(count)) for name, count in exact.items()}
    while sum(counts.values()) != len(studies):
        step = 1 if sum(counts.values()) < len(studies) else -1
        able = [name for name in counts if counts[name] + step >= 1]
        counts[max(able, key=lambda name: step * (exact[name] - counts[name]))] += step
    mixed = sorted(studies, key=lambda study: hashlib.sha256(study.encode("utf-8", "surrogateescape")).digest())
    splits = {}
    for name, count in counts.items():
        splits[name] = tuple(sorted(mixed[:count]))
        mixed = mixed[count:]
    return splits


def _by_name(parts: Mapping[str, str], studies: Collection[str]) -> dict[str, tuple[str, ...]]:
    named: dict[str, tuple[str, ...]] = {}
    left = set(studies)
    for name, value in parts.items():
        wanted = value.split("+")
        for study in wanted:
            if study not in left:
                why = "is named twice" if study in studies else "is not a study that can be used"
                raise FatalInputError("--split", f"{study} {why}; these can be: {some(sorted(studies), _NAMED)}")
            left.remove(study)
        named[name] = tuple(sorted(wanted))
    if left:
        named = {"train": (), **named}
        named["train"] = tuple(sorted({*named["train"], *left}))
    return named
