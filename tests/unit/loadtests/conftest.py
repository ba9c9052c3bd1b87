"""Locust patches the interpreter when it is imported. In a process of tests that would take threads from everybody else, xdist first of all.

What is tested here of `loadtests.users` uses gevent by name and needs no patch. Processes that the tests start do: they do not inherit this.
"""

import os

SKIP = "LOCUST_SKIP_MONKEY_PATCH"

os.environ[SKIP] = "1"
try:
    import locust  # noqa: F401
finally:
    del os.environ[SKIP]
