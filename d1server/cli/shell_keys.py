"""The shell's keys and completions, in the terms of prompt_toolkit."""

from collections.abc import Callable, Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from d1server.cli.shell_schema import completions
from d1server.cli.shell_session import COMMANDS, MODES, SESSIONS, Session

_ARGUMENTS = {
    ".mode": MODES,
    ".timer": ("on", "off"),
    ".bookmark": (*SESSIONS, "off"),
}


class SqlCompleter(Completer):
    """Completes names of the session's schema, keywords and dot commands."""

    def __init__(self, session: Session) -> None:
        """Complete for `session`."""
        self._session = session

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """What the text at the cursor may become."""
        del complete_event  # asked for or not: the same
        before = document.text_before_cursor
        if before.lstrip().startswith("."):
            yield from self._commands(before.lstrip())
            return
        word, found = completions(self._session.schema, before, document.text_after_cursor)
        for text in found:
            yield Completion(text, start_position=-len(word))

    def _commands(self, before: str) -> Iterable[Completion]:
        command, space, argument = before.partition(" ")
        known: Iterable[str] = COMMANDS
        if space:
            known = _ARGUMENTS.get(command, ())
            if command == ".schema":
                known = self._session.schema.tables
        typed = argument if space else command
        for text in known:
            if text.startswith(typed):
                yield Completion(text, start_position=-len(typed))


def bindings(is_whole: Callable[[str], bool]) -> KeyBindings:
    """Enter runs a whole statement, and else begins another line."""
    keys = KeyBindings()

    @keys.add("enter")
    def enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_whole(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    return keys
