"""Chat: what people ask for in Slack, Mattermost, on pull requests or by a signed webhook.

A request goes down this way: ``receive`` (is it theirs, was it received before), a module of
``vendors`` (its signature, its form), ``wording`` (the command), ``roles`` (who may), ``handle``
(what it does). Answers go back through ``outbox`` (rows of the database) and ``send``, which edits
one message as the run goes on; ``run_messages`` has the words, ``markup`` their form.
"""
