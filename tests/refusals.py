"How this project refuses: with a sentence."
import pytest

def refused(call, *words, kind=ValueError):
    "`call` must raise `kind` with one or two sentences that contain `words`; gives the message."
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 400, message
    for word in words:
        assert word in message, message
    return message
