"""Stop strings across pieces, against a twin that goes character by character."""

from hypothesis import given
from hypothesis import strategies as st

from lepton_edge.generate.stopping import StopFinder


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    finder, shown = StopFinder(stops), ""
    for piece in pieces:
        text, stopped = finder.push(piece)
        shown += text
        if stopped:
            assert finder.flush() == ""
            return shown, True
    return shown + finder.flush(), False


def twin(stops: list[str], text: str) -> tuple[str, bool]:
    for end in range(1, len(text) + 1):
        found = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(found)], True
    return text, False


@given(
    st.lists(st.text("ab€", min_size=1, max_size=5), max_size=3),
    st.lists(st.text("ab€", max_size=4), max_size=12),
)
def test_equals_the_twin_however_the_text_is_cut(stops: list[str], pieces: list[str]) -> None:
    expected = twin(stops, "".join(pieces))
    assert run(stops, pieces) == expected
    assert run(stops, list("".join(pieces))) == expected
    assert run(stops, ["".join(pieces)]) == expected


@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.text("abc", max_size=20))
def test_holds_back_no_more_than_it_must(stops: list[str], text: str) -> None:
    finder, shown = StopFinder(stops), ""
    for end, character in enumerate(text, 1):
        piece, stopped = finder.push(character)
        shown += piece
        if stopped:
            return
        held = text[len(shown) : end]
        assert text[:end] == shown + held
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)
        longer = (text[start:end] for start in range(len(shown)))
        assert not any(stop.startswith(rest) for rest in longer for stop in stops)


def test_without_stop_strings_all_passes() -> None:
    finder = StopFinder(())
    assert finder.push("abc") == ("abc", False)
    assert finder.flush() == ""
