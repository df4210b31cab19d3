"""Chat: what people ask for in Slack, Mattermost, on pull requests or by a signed webhook.

A request goes down this way: ``hearing`` (is it theirs, was it heard before), a vendor's module
(``slack``, ``mattermost``, ``generic``, ``github``, ``gitlab``: its signature, its form), ``words``
(the command), ``roles`` (who may), ``obeying`` (what it does). Answers go back through
``messages`` (rows of the database) and ``sending``, which edits one message as the run goes on;
``telling`` has the words, ``markup`` their form.
"""
