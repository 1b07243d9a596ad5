"""A plugin of pytest (`-p support.failures_at_once`, with `tests` on the path): a failure is shown when it happens, too.

For sessions that may be ended before their own summary.
"""

from __future__ import annotations

import pytest


class _AtOnce:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(f"\nFAILED {report.nodeid} ({report.when})\n{report.longreprtext}")
            terminal.flush()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_AtOnce(config))
