"""Errors of the load tests, each with the exit code it ends a command with.

::

    PilotageError
    ├── SettingsError    2  a profile, an option or a recorded request is wrong (from ``serving.contract.errors``)
    └── LoadTestError    3  the figures could not be had
        ├── ServiceError    the service does not answer, or serves no ranking model
        ├── NoSamples       nothing was measured, so there is nothing to report
        └── GeneratorError  the load generator died or had to be stopped
"""

from __future__ import annotations

from serving.contract.errors import PilotageError


class LoadTestError(PilotageError):
    """The test could not be carried out; says nothing about how fast the service is."""


class ServiceError(LoadTestError):
    """The service under test cannot be reached or serves nothing that this test can load."""


class NoSamples(LoadTestError):
    """A report was asked for and no request was answered or refused."""


class GeneratorError(LoadTestError):
    """The process that sends the load died, or ran past its time and was ended."""
