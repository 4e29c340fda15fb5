"""Logging: structured, to standard error. Prompts, answers and tokens never go into a log line."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str = "info", as_json: bool = False) -> None:
    """Sets structlog up for the process; call once, at start. What libraries log comes in the same form."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Relayed)]
    root.addHandler(_Relayed(logging.WARNING))


class _Relayed(logging.Handler):
    """What libraries warn of, as lines like all others: a reader of JSON finds nothing else in the log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = structlog.get_logger().bind(logger=record.name)
            told = log.error if record.levelno >= logging.ERROR else log.warning
            told(record.getMessage(), exc_info=record.exc_info or None)
        except Exception:
            self.handleError(record)
