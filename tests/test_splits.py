import hypothesis
import hypothesis.strategies as st
import pytest

from preprocess import splits
from preprocess.errors import InputError

FOUR = ("A", "B", "C", "D")


def test_one_name_takes_all() -> None:
    assert splits.assign("train", ("B", "A")) == {"train": ("A", "B")}


def test_studies_by_name() -> None:
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
    for weight, members in zip(weights, assigned.values(), strict=True):
        exact = weight / total * len(studies)
        assert len(members) >= 1
        assert abs(len(members) - exact) < 1 or exact < 1 or len(members) < exact
    assert splits.assign(rule, sorted(studies, reverse=True)) == assigned


def test_fractions_as_people_write_them() -> None:
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
        ("val=", "'val=': name=value expected"),
        ("val=A,val=B", "'val' stands there twice"),
    ],
)
def test_a_malformed_rule(rule: str, message: str) -> None:
    for check in (splits.check, lambda rule: splits.assign(rule, FOUR)):
        with pytest.raises(ValueError, match=message) as raised:
            check(rule)
        assert not isinstance(raised.value, InputError)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("val=E", "E is not a study that has pairs; these have: A, B, C, D"),
        ("val=A+A", "A stands there twice"),
        ("val=A,test=A", "A stands there twice"),
        ("a:0.2,b:0.2,c:0.2,d:0.2,e:0.2", "5 splits asked for, but only 4 studies have pairs"),
    ],
)
def test_a_rule_that_asks_for_what_is_not_there(rule: str, message: str) -> None:
    splits.check(rule)
    with pytest.raises(InputError, match=message):
        splits.assign(rule, FOUR)
