"""Outgoing events: stored first, then sent, and removed only when the broker has them.

Blocks of event payloads come in from :mod:`edm.stages.new_qname`, chunks for the publisher go out. The form
of the queue file is in :mod:`~edm.tapir.events.queue_file`; what happens to an event that cannot be sent is in
:mod:`~edm.tapir.events.backlog`.
"""
