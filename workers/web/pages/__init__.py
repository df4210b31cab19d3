"""The dashboard: pages for people who would rather look. `sandbox api` serves it beside the API.

``application`` puts it together; ``login`` lets people in, ``guards`` says what a page needs,
``rendering`` turns values into pages; the pages are in ``fleet``, ``runs``, ``run``,
``overview`` and ``submit``. Thin: what is shown, and who may do what, is decided where the API has
it from.
"""
