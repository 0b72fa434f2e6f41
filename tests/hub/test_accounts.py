"""Who may enter: names, passwords, and how often one may try."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

import pytest
from argon2 import PasswordHasher

from hub.accounts import passwords
from hub.accounts.attempts import MOST_KEYS, PER_ACCOUNT, PER_ADDRESS, WINDOW_S, Attempts
from hub.accounts.models import PersonRow
from hub.accounts.person import Role
from hub.accounts.service import Accounts, NewPerson
from hub.database import Database
from hub.errors import AlreadyThere, InputRefused, SignInRefused, TryLater
from tests.hub.conftest import PASSWORD, Browser, HandClock

TEACHER = NewPerson("teacher", "Teacher", Role.INSTRUCTOR, "ru", "Asia/Almaty")


def test_a_person_signs_in_with_their_own_password_alone(accounts: Accounts) -> None:
    added = accounts.add_person(TEACHER, PASSWORD)
    assert accounts.sign_in("Teacher ", PASSWORD, address="a").person == added
    with pytest.raises(SignInRefused):
        accounts.sign_in("teacher", PASSWORD + ".", address="a")


@pytest.mark.usefixtures("real_hashes")
def test_the_database_holds_an_argon2id_hash_and_no_password(accounts: Accounts, database: Database) -> None:
    accounts.add_person(TEACHER, PASSWORD)
    with database.reading() as session:
        kept = session.query(PersonRow).one().password_hash
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert PASSWORD not in kept


def test_the_same_word_typed_on_another_keyboard_is_the_same_password(accounts: Accounts) -> None:
    accounts.add_person(TEACHER, "пароль ключей ё")
    assert accounts.sign_in("teacher", "пароль ключей е\u0308", address="a")


@pytest.mark.usefixtures("real_hashes")
def test_a_hash_made_with_weaker_parameters_is_renewed_at_sign_in(accounts: Accounts, database: Database) -> None:
    accounts.add_person(TEACHER, PASSWORD)
    with database.transaction() as session:
        session.query(PersonRow).one().password_hash = PasswordHasher(time_cost=1, memory_cost=8192).hash(PASSWORD)
    accounts.sign_in("teacher", PASSWORD, address="a")
    with database.reading() as session:
        assert "m=65536" in session.query(PersonRow).one().password_hash


@pytest.mark.usefixtures("real_hashes")
def test_an_unknown_name_costs_a_hash_too_so_that_time_does_not_tell_who_exists(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.add_person(TEACHER, PASSWORD)
    compared: list[str] = []

    class Counting(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # noqa: A002 - argon2's name
            compared.append(str(hash).rpartition("$")[0].rpartition("$")[0])
            return super().verify(hash, password)

    monkeypatch.setattr(passwords, "_hasher", Counting())
    for name in ("teacher", "nobody"):
        with pytest.raises(SignInRefused):
            accounts.sign_in(name, "not the password", address="a")
    assert len(compared) == 2
    assert compared[0] == compared[1]


@pytest.mark.parametrize("password", ["short", "123456789", "Teacher.One", " teacher.one "])
def test_a_password_that_will_not_do_is_refused(accounts: Accounts, password: str) -> None:
    with pytest.raises(InputRefused) as caught:
        accounts.add_person(NewPerson("teacher.one", "Teacher", Role.TRAINEE), password)
    assert "password" in caught.value.fields


def test_a_name_exists_once(accounts: Accounts) -> None:
    accounts.add_person(TEACHER, PASSWORD)
    with pytest.raises(AlreadyThere):
        accounts.add_person(TEACHER, PASSWORD)


@pytest.mark.parametrize(
    ("new", "field"),
    [
        (NewPerson("A", "A", Role.TRAINEE), "name"),
        (NewPerson("Анна", "A", Role.TRAINEE), "name"),
        (NewPerson("teacher", "", Role.TRAINEE), "display_name"),
        (NewPerson("teacher", "A", Role.TRAINEE, "fr"), "language"),
        (NewPerson("teacher", "A", Role.TRAINEE, "en", "+5"), "zone"),
    ],
)
def test_what_will_not_do_is_named(accounts: Accounts, new: NewPerson, field: str) -> None:
    with pytest.raises(InputRefused) as caught:
        accounts.add_person(new, PASSWORD)
    assert list(caught.value.fields) == [field]


def test_a_password_cannot_be_guessed_by_trying(accounts: Accounts, clock: HandClock) -> None:
    accounts.add_person(TEACHER, PASSWORD)
    for _ in range(PER_ACCOUNT):
        with pytest.raises(SignInRefused):
            accounts.sign_in("teacher", "wrong password", address="a")
        clock.forward(1)
    with pytest.raises(TryLater) as caught:
        accounts.sign_in("teacher", PASSWORD, address="b")
    assert caught.value.seconds == WINDOW_S - PER_ACCOUNT
    clock.forward(caught.value.seconds)
    assert accounts.sign_in("teacher", PASSWORD, address="b").person.name == "teacher"


def test_a_sign_in_that_succeeds_clears_the_account(accounts: Accounts) -> None:
    accounts.add_person(TEACHER, PASSWORD)
    for _ in range(3):
        for _ in range(PER_ACCOUNT - 1):
            with pytest.raises(SignInRefused):
                accounts.sign_in("teacher", "wrong password", address="a")
        accounts.sign_in("teacher", PASSWORD, address="a")


def test_one_address_cannot_try_many_names(clock: HandClock) -> None:
    attempts = Attempts(clock)
    for number in range(PER_ADDRESS):
        attempts.begin(f"name-{number}", "10.0.0.1")
    with pytest.raises(TryLater):
        attempts.begin("another", "10.0.0.1")
    attempts.begin("another", "10.0.0.2")


def test_many_attempts_at_once_do_not_slip_through_together(clock: HandClock) -> None:
    attempts = Attempts(clock)
    refused: list[int] = []

    def attempt() -> None:
        try:
            attempts.begin("teacher", "a")
        except TryLater as error:
            refused.append(error.seconds)

    threads = [threading.Thread(target=attempt) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 20 - PER_ACCOUNT


def test_made_up_names_do_not_fill_the_memory(clock: HandClock) -> None:
    attempts = Attempts(clock)
    for number in range(MOST_KEYS + 100):
        attempts.begin(f"name-{number}", f"address-{number}")
    assert len(attempts._times) <= MOST_KEYS


def test_issued_passwords_are_new_each_time_until_the_person_chooses_their_own(accounts: Accounts) -> None:
    """The demo prints working sign-ins at each start, and never overrules a person's own password."""
    people = [TEACHER, NewPerson("tech", "Tech", Role.TECHNICIAN)]
    first = accounts.issue_sign_ins(people)
    assert [sign_in.person.name for sign_in in first] == ["teacher", "tech"]
    second = accounts.issue_sign_ins(people)
    for old, new in zip(first, second, strict=True):
        assert old.password is not None
        assert new.password is not None
        assert old.password != new.password
    with pytest.raises(SignInRefused):
        accounts.sign_in("teacher", first[0].password or "", address="a")
    teacher = accounts.sign_in("teacher", second[0].password or "", address="a").person
    assert teacher.issued
    begun = accounts.change_password(teacher.id, current=second[0].password or "", new=PASSWORD, address="a")
    assert not begun.person.issued
    third = accounts.issue_sign_ins(people)
    assert third[0].password is None
    assert third[1].password is not None
    assert accounts.sign_in("teacher", PASSWORD, address="a")


def test_changing_a_password_asks_for_the_current_one(accounts: Accounts) -> None:
    teacher = accounts.add_person(TEACHER, PASSWORD)
    with pytest.raises(InputRefused) as caught:
        accounts.change_password(teacher.id, current="not the one", new="another long one", address="a")
    assert "current" in caught.value.fields
    with pytest.raises(InputRefused) as caught:
        accounts.change_password(teacher.id, current=PASSWORD, new="short", address="a")
    assert "password" in caught.value.fields
    accounts.change_password(teacher.id, current=PASSWORD, new="another long one", address="a")
    assert accounts.sign_in("teacher", "another long one", address="a")


async def test_too_many_attempts_are_answered_with_the_time_to_wait(
    browser: Callable[[], Awaitable[Browser]],
) -> None:
    opened = await browser()
    for _ in range(PER_ACCOUNT):
        answer = await opened.sign_in("nobody", "wrong password")
        assert answer.status_code == 401
        assert answer.json()["code"] == "sign_in_refused"
    answer = await opened.sign_in("nobody", "wrong password")
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == str(WINDOW_S)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == f"Too many attempts. Try again in {WINDOW_S} s."


async def test_an_answer_never_repeats_a_password(browser: Callable[[], Awaitable[Browser]]) -> None:
    opened = await browser()
    await opened.look()
    answer = await opened.send("POST", "/api/v1/session", json={"name": 5, "password": "s3cret" * 50})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert "s3cret" not in answer.text
    assert "body.password" in answer.json()["detail"]
