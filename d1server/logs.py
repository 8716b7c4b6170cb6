"""How a node writes its log: one line per event on standard error.

`text` is for people, `json` for collectors. Both carry time (UTC), level, logger, message
and whatever the event was given as `extra`. The level stands at a fixed place in a text
line, so that a supervisor can tell warnings from the rest (`is_quiet`).
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import orjson
import structlog

QUIET_LINE: Final = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (?:DEBUG|INFO) ")
HIDDEN_KEYS: Final = frozenset({"timestamp", "level", "logger", "event", "exception"})


def configure_logs(level: str, form: str) -> None:
    """Send every log record of this process to standard error, from `level` on."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    render: structlog.typing.Processor = render_json if form == "json" else render_text
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def is_quiet(line: str) -> bool:
    """Tell whether a text line is below a warning. A traceback's lines are not quiet."""
    return QUIET_LINE.match(line) is not None or not line.strip()


def render_json(_logger: object, _name: str, event: MutableMapping[str, Any]) -> str:
    """Return one event as one JSON object."""
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def render_text(_logger: object, _name: str, event: MutableMapping[str, Any]) -> str:
    """Return one event as one line, and its traceback below it."""
    extras = "".join(f" {key}={event[key]}" for key in event if key not in HIDDEN_KEYS)
    line = (
        f"{event['timestamp']} {event['level'].upper()} {event.get('logger') or 'd1server'}:"
        f" {str(event['event']).rstrip()}{extras}"
    )
    trace = event.get("exception")
    return f"{line}\n{trace}" if trace else line
