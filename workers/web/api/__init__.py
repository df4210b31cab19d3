"""The HTTP API: a front door as thin as the commands. `sandbox api` serves it.

``application`` puts it together; ``access`` says who may do what, ``guards`` what no request gets
around, ``problems`` how it is told that something went wrong; the routes are in ``runs``,
``events``, ``files``, ``looking`` and ``tokens``.
"""
