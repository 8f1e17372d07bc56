"""New names: finding question names that were never seen before, and making an event about each.

The rows that match no list come in; event payloads go out through :mod:`~edm.stages.new_qname.queue`. The
members of an event are in :mod:`~edm.stages.new_qname.payloads`. :mod:`~edm.stages.new_qname.ordering` decides
which answer about a new name was the first.
"""
