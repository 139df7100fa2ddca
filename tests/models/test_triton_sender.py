"""What a decoupled TritonPythonModel answers with."""

from __future__ import annotations

from threading import Thread

import pytest

from serving.models.triton_sender import FINAL, MAX_UNREAD, ResponseSender


def test_answers_come_in_order_until_the_last() -> None:
    sender: ResponseSender[int] = ResponseSender()
    for n in range(3):
        sender.send(n)
    sender.send(3, FINAL)
    assert list(sender.read()) == [0, 1, 2, 3]


def test_what_is_behind_the_last_answer_is_refused() -> None:
    sender: ResponseSender[int] = ResponseSender()
    sender.send(flags=FINAL)
    with pytest.raises(ValueError, match="has been closed"):
        sender.send(1)
    assert list(sender.read()) == []


@pytest.mark.parametrize(("flags", "words"), [(0, "must be provided"), (2, "Unsupported flag 2")])
def test_a_send_that_says_nothing_is_an_error(flags: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ResponseSender[int]().send(flags=flags)


def test_an_error_of_execute_comes_behind_what_was_sent() -> None:
    sender: ResponseSender[int] = ResponseSender()
    sender.send(1)
    sender.fail(KeyError("x"))
    answers = sender.read()
    assert next(answers) == 1
    with pytest.raises(KeyError):
        next(answers)


def test_a_model_waits_for_a_reader_that_is_slow_and_not_for_one_that_has_gone() -> None:
    sender: ResponseSender[int] = ResponseSender()
    sent: list[int] = []

    def send() -> None:
        for n in range(3 * MAX_UNREAD):
            sender.send(n)
            sent.append(n)

    model = Thread(target=send)
    model.start()
    answers = sender.read()
    for n in range(MAX_UNREAD):
        assert next(answers) == n
        assert len(sent) <= 2 * MAX_UNREAD + n
    assert not sender.is_cancelled()
    answers.close()
    model.join(60)
    assert not model.is_alive()
    assert len(sent) == 3 * MAX_UNREAD
    assert sender.is_cancelled()
