import fractions

import hypothesis
import hypothesis.strategies as st
import pytest

from preprocess.findings import FatalInputError
from preprocess.output import splits

FOUR = ("A", "B", "C", "D")


def test_one_name_takes_all() -> None:
    assert splits.assign("train", ("B", "A")) == {"train": ("A", "B")}


def test_studies_go_to_the_splits_that_name_them() -> None:
    assert splits.assign("val=B", FOUR) == {"train": ("A", "C", "D"), "val": ("B",)}
    assert splits.assign("val=D+B,test=A", FOUR) == {"train": ("C",), "val": ("B", "D"), "test": ("A",)}
    assert splits.assign("train=A,val=B", FOUR) == {"train": ("A", "C", "D"), "val": ("B",)}
    assert splits.assign("val=A+B+C+D", FOUR) == {"val": FOUR}


@hypothesis.given(
    weights=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    studies=st.sets(st.text(min_size=1, max_size=8), min_size=5, max_size=40),
)
def test_fractions_round_to_whole_studies(weights: list[int], studies: set[str]) -> None:
    total = sum(weights)
    rule = ",".join(f"s{number}:{weight}/{total}" for number, weight in enumerate(weights))
    assigned = splits.assign(rule, studies)
    assert sorted(study for members in assigned.values() for study in members) == sorted(studies)
    assert list(assigned) == [f"s{number}" for number in range(len(weights))]
    shares = [fractions.Fraction(weight * len(studies), total) for weight in weights]
    # A split whose share is less than one study gets one, at the cost of the others.
    raised = sum(exact < 1 for exact in shares)
    for exact, members in zip(shares, assigned.values(), strict=True):
        if exact < 1:
            assert len(members) == 1
        else:
            assert exact - 1 - raised < len(members) < exact + 1
    assert splits.assign(rule, sorted(studies, reverse=True)) == assigned


def test_decimal_fractions_give_whole_studies() -> None:
    sizes = {name: len(members) for name, members in splits.assign("train:0.6,val:0.2,test:0.2", "ABCDEFGHIJ").items()}
    assert sizes == {"train": 6, "val": 2, "test": 2}
    sizes = {name: len(members) for name, members in splits.assign("train:0.6,val:0.2,test:0.2", FOUR).items()}
    assert sizes == {"train": 2, "val": 1, "test": 1}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("", "split ''"),
        ("Train", "a name of lower-case letters"),
        ("train/../x", "a name of lower-case letters"),
        ("train:0.5", "fractions above 0 that add up to 1"),
        ("train:0.5,val:0.6", "fractions above 0 that add up to 1"),
        ("train:1.5,val:-0.5", "fractions above 0 that add up to 1"),
        ("train:x,val:0.5", "fractions expected"),
        ("train:1/0", "fractions expected"),
        ("train:0.5,val", "'val': name:value expected"),
        ("train:1e99999999,val:0.5", "fractions expected"),
        ("train:0." + "9" * 5000, "fractions expected"),
        ("val:0.2", "split val:0.2: .* add up to 1 expected; to train on the rest, write train:0.8,val:0.2$"),
        ("val:1/3,test:1/3", "to train on the rest, write train:1/3,val:1/3,test:1/3$"),
        ("val=", "'val=': name=value expected"),
        ("val=A,val=B", "'val' is named twice"),
    ],
)
def test_a_malformed_rule_is_refused(rule: str, message: str) -> None:
    for check in (splits.check, lambda rule: splits.assign(rule, FOUR)):
        with pytest.raises(ValueError, match=message) as raised:
            check(rule)
        assert not isinstance(raised.value, FatalInputError)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("val=E", "E is not a study that can be used; these can be: A, B, C, D"),
        ("val=A+A", "A is named twice; these can be: A, B"),
        ("val=A,test=A", "A is named twice; these can be: A, B"),
        ("a:0.2,b:0.2,c:0.2,d:0.2,e:0.2", "5 splits need a study each, and 4 can be used: A, B, C, D"),
    ],
)
def test_a_rule_that_the_studies_cannot_satisfy_is_refused(rule: str, message: str) -> None:
    splits.check(rule)
    with pytest.raises(FatalInputError, match=message):
        splits.assign(rule, FOUR)


def test_a_message_names_ten_studies_at_most() -> None:
    with pytest.raises(FatalInputError, match=r"these can be: 00, 01, 02, 03, 04, 05, 06, 07, 08, 09, 20 more$"):
        splits.assign("val=X", [f"{number:02d}" for number in range(30)])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("trian:0.8,val:0.2", "trian"),
        ("trian=A", "trian"),
        ("train:0.8,val:0.2", None),
        ("train1:0.5,train2:0.5", None),
        ("test", None),
        ("val=A,test=B", None),
    ],
)
def test_a_misspelled_train_is_noticed(rule: str, expected: str | None) -> None:
    assert splits.misspelled(rule) == expected
