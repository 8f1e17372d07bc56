"""New names: which question names were never seen before, and the event about each.

The rows that match no list come in; event payloads go out through :mod:`~edm.stages.new_qname.queue`. The
members of an event are in :mod:`~edm.stages.new_qname.payloads`; who was first is settled in
:mod:`~edm.stages.new_qname.ordering`.
"""
