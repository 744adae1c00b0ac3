"""What several rooms check, and how messages name it."""

from convlstm.core.checks import shortened


def test_messages_name_five_and_count_the_others() -> None:
    assert shortened([]) == ""
    assert shortened(list("abcde")) == "a, b, c, d, e"
    assert shortened(list("abcdefg"), "; ") == "a; b; c; d; e; and 2 more"
