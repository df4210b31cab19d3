"""The dashboard: pages for people who would rather look. `sandbox api` serves it beside the API.

``application`` puts it together; ``entering`` lets people in, ``guarding`` says what a page needs,
``rendering`` turns values into pages; the pages are in ``fleet``, ``listing``, ``running``,
``looking`` and ``asking``. Thin: what is shown, and who may do what, is decided where the API has
it from.
"""
