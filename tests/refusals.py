"How this project refuses, and how its checks answer: with a sentence."
import re

import pytest

def refused(call, *words, kind=ValueError):
    "`call` must raise `kind` with one or two sentences that contain `words`; gives the message."
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    prose = re.sub(r"\S{60,}", "", message)  # a long path of this machine is no fault
    assert message.endswith(".") and "\n" not in message and len(prose) < 400, message
    for word in words:
        assert word in message, message
    return message

def not_yet(check, answer, hint, capsys):
    "The check of an exercise must refuse `answer` in one sentence that contains `hint`."
    assert not check(answer)
    said = capsys.readouterr().out
    assert said.startswith("Not yet: ") and said.count("\n") == 1 and hint in said, said
